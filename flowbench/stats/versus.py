"""One algorithm against another: how large the difference is, on which tasks, and how many seeds would decide it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from flowbench.stats import power
from flowbench.stats.aggregate import drawn_iqm, iqm, score_matrices
from flowbench.stats.bootstrap import REPS, Floats, ends, strata_drawn
from flowbench.stats.pairs import both_ways, common, improvement, scores_by_task
from flowbench.stats.rank_tests import DECIDED, LEVEL


def versus(
    table: pd.DataFrame, algo: str, over: str, *, reps: int = REPS, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``algo`` against ``over`` on one suite: over the tasks that both have (one row), and on each task (a row each).

    The columns of ``improvement`` for this pair alone and, in addition: ``difference``, ``difference_low`` and
    ``difference_high`` of the IQMs of normalised scores (over the tasks: of complete seeds); ``needed``, an estimate of
    the seeds of each algorithm that would decide a pair that is not decided yet, missing if it is decided or if too
    many seeds would be needed. Takes the table of ``at_step``; repeatability and errors: see ``aggregates``.
    """
    table = table[table["algo"].isin([algo, over])]
    samples = common(scores_by_task(table), algo, over)
    overall, each = (
        frame[frame["algo"] == algo].reset_index(drop=True)
        for frame in map(both_ways, improvement(table, reps=reps, seed=seed))
    )
    level = LEVEL / max(1, int((~each["verdict"].isin(DECIDED)).sum()))
    rows = [
        (*_iqm_difference(x[:, None], y[:, None], reps, seed), power.seeds_needed([(x, y)], level, seed))
        for x, y in (samples[task] for task in each["task"])
    ]
    both = score_matrices(table[table["task"].isin(samples)])
    x, y = (both.get(name, np.empty((0, len(samples)))) for name in (algo, over))
    row = (*_iqm_difference(x, y, reps, seed), power.seeds_needed(list(samples.values()), LEVEL, seed))
    return _extended(overall, [row] * len(overall)), _extended(each, rows)


def _extended(frame: pd.DataFrame, rows: Sequence[tuple[float | None, ...]]) -> pd.DataFrame:
    more = pd.DataFrame(rows, columns=["difference", "difference_low", "difference_high", "needed"], index=frame.index)
    more.loc[frame["verdict"].isin(DECIDED), "needed"] = None
    return frame.join(more).astype({"needed": "Int64"})


def _iqm_difference(x: Floats, y: Floats, reps: int, seed: int) -> tuple[float, float, float]:
    """IQM of x minus IQM of y (matrices of runs by tasks) with its interval; NaN where there is no value."""
    if not len(x) or not len(y):
        return math.nan, math.nan, math.nan
    difference = float(iqm(x) - iqm(y))
    if min(len(x), len(y)) == 1:
        return difference, math.nan, math.nan
    random = np.random.default_rng(seed)
    drawn = []
    for scores in (x, y):
        runs, tasks = scores.shape
        drawn.append(drawn_iqm(scores.ravel(), strata_drawn(random, runs, tasks, reps).reshape(reps, -1).T))
    low, high = ends(drawn[0] - drawn[1]).tolist()
    return difference, low, high
