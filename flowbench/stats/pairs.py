"""The probability of improvement of every pair of algorithms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from flowbench.stats.bootstrap import CONFIDENCE, REPS, Floats, ends, times_drawn
from flowbench.stats.scores import check

FEWEST = 3  # runs of either on every task that a verdict takes


def improvement(table: pd.DataFrame, *, reps: int = REPS, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """P(algo > over) for every pair of one suite's algorithms: over the tasks that both have, and on each of these.

    On a task it is the share of all pairs (a run of ``algo``, a run of ``over``) in which the first scores higher,
    ties counting half: Mann-Whitney's U over the number of pairs. Over the tasks it is the mean of the tasks'. The
    runs of each algorithm are resampled within each task, on their own. Every run that counts is used, so tasks may
    differ in their seeds. A task with one run of either algorithm has no interval, nor has a mean over it.

    Takes the table of ``at_step``; returns two frames, a row a pair (algo before over in the alphabet; the other way
    round is 1 - P) and a row a pair and task. Columns: ``task`` (second frame only), algo, over, estimate, low, high,
    ``seeds`` and ``over_seeds`` (the fewest on any of the tasks), ``tasks`` (first frame only: how many both have),
    ``verdict``. Repeatable and raising as ``aggregates``; a pair's numbers do not depend on the other algorithms.
    """
    check(table, reps)
    counted = table[table["counts"]].sort_values("seed")
    scores = {key: group["score"].to_numpy(dtype=np.float64) for key, group in counted.groupby(["algo", "task"])}
    overall, each = [], []
    for algo, over in combinations(sorted(set(table["algo"])), 2):
        tasks = [t for t in sorted(set(table["task"])) if (algo, t) in scores and (over, t) in scores]
        wins = [outcomes(scores[algo, task], scores[over, task]) for task in tasks]
        points = np.array([win.mean() for win in wins])
        drawn = drawn_means(wins, reps, seed)
        for place, task in enumerate(tasks):
            each.append((task, algo, over, *_compared(points[[place]], drawn[[place]], wins[place : place + 1])))
        overall.append((algo, over, *_compared(points, drawn, wins), len(tasks)))
    columns = ["algo", "over", "estimate", "low", "high", "seeds", "over_seeds", "verdict"]
    by_task = pd.DataFrame(each, columns=["task", *columns])
    return pd.DataFrame(overall, columns=[*columns, "tasks"]), by_task


def outcomes(x: Floats, y: Floats) -> Floats:
    """[runs of x, runs of y]: 1 where x's score is higher, 0.5 where they tie, 0 elsewhere."""
    return np.where(x[:, None] > y, 1.0, np.where(x[:, None] == y, 0.5, 0.0))


def drawn_means(wins: Sequence[Floats], reps: int, seed: int) -> Floats:
    """[tasks, reps]: the mean of each task's wins with its rows and its columns drawn anew, with replacement."""
    random = np.random.default_rng(seed)
    means = [
        ((times_drawn(random, len(win), reps) @ win) * times_drawn(random, win.shape[1], reps)).sum(axis=1) / win.size
        for win in wins
    ]
    return np.array(means).reshape(len(wins), reps)


def _compared(points: Floats, drawn: Floats, wins: Sequence[Floats]) -> tuple[float, float, float, int, int, str]:
    """Estimate, low, high, the fewest runs of either algorithm and the verdict, over tasks ([tasks], [tasks, reps])."""
    if not wins:
        return math.nan, math.nan, math.nan, 0, 0, "no common task"
    fewest = min(len(win) for win in wins), min(win.shape[1] for win in wins)
    low = high = math.nan
    if min(fewest) > 1:
        low, high = ends(drawn.mean(axis=0)).tolist()
    return float(points.mean()), low, high, *fewest, _verdict(low, high, wins)


def _verdict(low: float, high: float, wins: Sequence[Floats]) -> str:
    """``better`` or ``worse`` if the interval lies beyond 0.5, else ``undecided``; ``too few seeds`` to tell.

    Runs that lie all on one side give an interval without width, however few they are: it would call three seeds
    against three better for what two equal algorithms do in one case of ten.
    """
    if too_few([(len(win), win.shape[1]) for win in wins]):
        return "too few seeds"
    rounding = 1e-9  # a mean over tasks that is 0.5 on paper may be off by this much
    if low > 0.5 + rounding:
        return "better"
    return "worse" if high < 0.5 - rounding else "undecided"


def too_few(sizes: Sequence[tuple[int, int]]) -> bool:
    """Whether so many runs of each on every task are too few for a verdict.

    That is fewer than FEWEST of either on any task: two drawn anew are the same one half of the time, and over several
    tasks an interval would be far too narrow. It is also where even the extreme, all runs of one above all of the
    other, either way round, is likelier by chance than the confidence leaves room for.
    """
    if min(map(min, sizes)) < FEWEST:
        return True
    return 2 / math.prod(math.comb(runs + over_runs, runs) for runs, over_runs in sizes) > 1 - CONFIDENCE
