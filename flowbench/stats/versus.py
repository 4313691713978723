"""One algorithm against another: by how much, on which tasks, and whether chance could have done it."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from flowbench.stats import power, rank_tests
from flowbench.stats.aggregate import drawn_iqm, iqm, score_matrices
from flowbench.stats.bootstrap import CONFIDENCE, REPS, Floats, ends, strata_drawn
from flowbench.stats.pairs import drawn_means, outcomes, too_few
from flowbench.stats.scores import check

LEVEL = 1 - CONFIDENCE
PERMUTATIONS = REPS  # of the test over the tasks; however few resamples an interval is made of, it can decide
Sample = tuple[Floats, Floats]  # the scores of both on one task


def versus(
    table: pd.DataFrame, algo: str, over: str, *, reps: int = REPS, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``algo`` against ``over`` on one suite: over the tasks that both have (one row), and on each (a row a task).

    Columns of both: ``estimate``, ``low``, ``high`` of P(algo > over) as in ``improvement``; ``difference``,
    ``difference_low``, ``difference_high`` of the IQMs of normalised scores (over the tasks: of the seeds that each
    of them has); ``seeds`` and ``over_seeds`` (the fewest on any task); ``p``; ``verdict``, which is "better",
    "worse" or "undecided"; ``needed``, an estimate of the seeds of each that would decide what is undecided, missing
    if it is decided or would take too many. Each task has ``task`` and ``p_holm``, too, the first row ``tasks``.

    A task's p is that of the exact Mann-Whitney test, valid for any number of seeds, and it is decided where p after
    Holm's correction for the number of tasks is at most 0.05. Over the tasks p is that of a permutation test
    stratified by task, of PERMUTATIONS permutations whatever ``reps``. Takes the table of ``at_step``; repeatable and
    raising as ``aggregates``.
    """
    check(table, reps)
    tasks, samples = _samples(table, algo, over)
    adjusted = rank_tests.holm([rank_tests.p_value(*sample) for sample in samples])
    open_tasks = sum(p > LEVEL for p in adjusted)
    rows = []
    for task, sample, p_holm in zip(tasks, samples, adjusted, strict=True):
        x, y = (scores[:, None] for scores in sample)
        numbers = _numbers([sample], x, y, reps, seed)
        verdict = _verdict(p_holm, numbers["estimate"])
        needed = power.seeds_needed([sample], LEVEL / open_tasks, seed) if verdict == "undecided" else None
        rows.append(
            {
                "task": task,
                **numbers,
                "p": rank_tests.p_value(*sample),
                "p_holm": p_holm,
                "verdict": verdict,
                "needed": needed,
            }
        )
    columns = [*NUMBERS, "p", "verdict", "needed"]
    each = pd.DataFrame(rows, columns=["task", *columns[:-2], "p_holm", *columns[-2:]]).astype({"needed": "Int64"})

    both = score_matrices(table[table["task"].isin(tasks) & table["algo"].isin([algo, over])])
    none = np.empty((0, len(tasks)))
    numbers = _numbers(samples, both.get(algo, none), both.get(over, none), reps, seed)
    p = rank_tests.stratified_p_value(samples, PERMUTATIONS, seed)
    verdict = _verdict(p, numbers["estimate"])
    needed = power.seeds_needed(samples, LEVEL, seed) if verdict == "undecided" else None
    row = {**numbers, "p": p, "verdict": verdict, "needed": needed, "tasks": len(tasks)}
    return pd.DataFrame([row], columns=[*columns, "tasks"]).astype({"needed": "Int64"}), each


def decisions(table: pd.DataFrame, *, apart: Collection[str] = (), seed: int = 0) -> pd.DataFrame:
    """Every pair of one suite's algorithms by the test of ``versus`` over the tasks that both have.

    Columns: algo, over (as in ``improvement``), ``p``, ``p_holm`` (after Holm's correction for the number of pairs
    that have a common task) and ``verdict``: "better", "worse", "undecided", "too few seeds" where these runs could
    have none, or "no common task". Pairs with algorithms that stand ``apart``, such as published ones, are corrected on
    their own, so that they weaken no verdict on the others. Raises as ``aggregates``.
    """
    check(table, 1)
    pairs = list(combinations(sorted(set(table["algo"])), 2))
    samples = [_samples(table, *pair)[1] for pair in pairs]
    raw = [rank_tests.stratified_p_value(each, PERMUTATIONS, seed) for each in samples]
    adjusted = [1.0] * len(pairs)
    for beside in (False, True):
        places = [k for k, pair in enumerate(pairs) if samples[k] and beside == any(name in apart for name in pair)]
        for k, p in zip(places, rank_tests.holm([raw[k] for k in places]), strict=True):
            adjusted[k] = p
    rows = [
        (*pair, p, p_holm, _decision(each, p_holm))
        for pair, each, p, p_holm in zip(pairs, samples, raw, adjusted, strict=True)
    ]
    return pd.DataFrame(rows, columns=["algo", "over", "p", "p_holm", "verdict"])


def _decision(samples: Sequence[Sample], p: float) -> str:
    if not samples:
        return "no common task"
    if too_few([(len(x), len(y)) for x, y in samples]):
        return "too few seeds"
    return _verdict(p, float(np.mean([outcomes(*sample).mean() for sample in samples])))


NUMBERS = (
    "estimate", "low", "high", "difference", "difference_low", "difference_high", "seeds", "over_seeds",
)  # fmt: skip


def _samples(table: pd.DataFrame, algo: str, over: str) -> tuple[list[str], list[Sample]]:
    """The tasks that both have, and on each the scores of the runs of either that count."""
    counted = table[table["counts"]].sort_values("seed")
    scores = {key: group["score"].to_numpy(dtype=np.float64) for key, group in counted.groupby(["algo", "task"])}
    tasks = [task for task in sorted(set(table["task"])) if (algo, task) in scores and (over, task) in scores]
    return tasks, [(scores[algo, task], scores[over, task]) for task in tasks]


def _numbers(samples: Sequence[Sample], x: Floats, y: Floats, reps: int, seed: int) -> dict[str, float]:
    """P(x > y) over the samples and the difference in IQM of two matrices (runs by tasks), with their intervals."""
    if not samples:
        return dict.fromkeys(NUMBERS[:-2], math.nan) | {"seeds": 0, "over_seeds": 0}
    wins = [outcomes(*sample) for sample in samples]
    fewest = min(map(len, wins)), min(win.shape[1] for win in wins)
    low = high = math.nan
    if min(fewest) > 1:
        low, high = ends(drawn_means(wins, reps, seed).mean(axis=0)).tolist()
    estimate = float(np.mean([win.mean() for win in wins]))
    return dict(zip(NUMBERS, (estimate, low, high, *_iqm_difference(x, y, reps, seed), *fewest), strict=True))


def _iqm_difference(x: Floats, y: Floats, reps: int, seed: int) -> tuple[float, float, float]:
    """IQM of x less IQM of y, matrices of runs by tasks, with its interval; NaN for what there is not."""
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


def _verdict(p: float, estimate: float) -> str:
    if not p <= LEVEL:
        return "undecided"
    return "better" if estimate > 0.5 else "worse"
