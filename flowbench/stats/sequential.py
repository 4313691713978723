"""Whether algorithms differ, looked at after every few seeds: a group-sequential permutation test.

Testing anew whenever seeds are added finds differences that are not there, more often the more often one looks. Here
the number of looks is fixed before the first run, and the chance of a false verdict, 5 % over all looks and all pairs
of algorithms, is spent on them in equal parts, as in Mathieu et al. 2024, "AdaStop: adaptive statistical testing for
sound comparisons of Deep RL agents". What is tested at a look is P(x > y), the mean over tasks of Mann-Whitney's
statistic, of all seeds so far; what chance does to it from look to look follows from exchanging runs of the two
algorithms among the seeds that one look added to one task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pandas as pd

from flowbench.stats import rank_tests
from flowbench.stats.bootstrap import CONFIDENCE, REPS, Floats
from flowbench.stats.scores import check

SEEDS_A_LOOK = 5
LEAST = 100  # permutations for each look and pair


@dataclass(frozen=True)
class Pair:
    """Two algorithms at the last look that was taken at them."""

    algo: str
    over: str
    seeds: int  # of each
    estimate: float  # P(algo > over), the mean over tasks
    p: float  # over all looks that were planned and all pairs
    verdict: str  # "better", "worse" or "undecided"


def looks(most: int) -> tuple[int, ...]:
    """After how many seeds of each algorithm to look when there are to be `most` at the end: every five or so."""
    count = max(1, round(most / SEEDS_A_LOOK))
    return tuple(round(most * look / count) for look in range(1, count + 1))


def least_p(plan: Sequence[int], tasks: int, pairs: int) -> float:
    """The p of every run of one algorithm above all of the other, on so many tasks: the smallest there can be."""
    ways: int = math.prod(math.comb(2 * (high - low), high - low) ** tasks for low, high in pairwise((0, *plan)))
    return min(1.0, 2 / ways * len(plan) * pairs)


def pairs(table: pd.DataFrame, plan: Sequence[int], *, reps: int | None = None, seed: int = 0) -> list[Pair]:
    """Every pair of one suite's algorithms, each at the last of the planned looks that both have all the seeds of.

    `plan` is what `looks` gives: seeds 0 to n - 1 belong to a look at n; further seeds are not looked at. p is the
    smallest level at which one of the looks so far decides the pair, after Holm's correction for the number of pairs,
    which holds for sequential tests, too (Maurer and Bretz 2013, "Multiple testing in group sequential trials using
    graphical approaches"). A pair is decided where p is at most 0.05; one without a first look is undecided, p 1.

    Takes the table of ``at_step``; repeatable and raising as ``aggregates``. Without `reps` there are as many
    permutations as it takes to tell p from 0.05 with that many looks and pairs.
    """
    both = list(combinations(dict.fromkeys(table["algo"]), 2))
    reps = max(REPS, LEAST * len(plan) * len(both)) if reps is None else reps
    check(table, reps)
    tasks = sorted(set(table["task"]))
    counted = table[table["counts"]]
    keys = zip(counted["algo"], counted["task"], counted["seed"], strict=True)
    scores = dict(zip(keys, counted["score"].to_numpy(dtype=np.float64), strict=True))

    def of(algo: str, seeds: int) -> Floats:
        return np.array([[scores[algo, task, s] for s in range(seeds)] for task in tasks])

    found: list[tuple[str, str, int, float]] = []
    levels, sides = [], []
    for algo, over in both:
        cells = [(each, task) for each in (algo, over) for task in tasks]
        taken = [n for n in plan if all((*cell, s) in scores for cell in cells for s in range(n))]
        if taken:
            paths = _paths(of(algo, taken[-1]), of(over, taken[-1]), taken, reps, seed)
            found.append((algo, over, taken[-1], 0.5 + float(paths[0, -1])))
            level, side = _decided(paths, len(plan))
        else:
            found.append((algo, over, 0, math.nan))
            level, side = 1.0, 0.0
        levels.append(level)
        sides.append(side)
    return [
        Pair(*numbers, p, _verdict(p, side))
        for numbers, p, side in zip(found, rank_tests.holm(levels), sides, strict=True)
    ]


def _paths(x: Floats, y: Floats, taken: Sequence[int], reps: int, seed: int) -> Floats:
    """[1 + reps, looks]: P(x > y) - 0.5 at every look, of the runs as they are and with runs exchanged by chance.

    x and y are [tasks, seeds]. What each look adds to a task draws from a stream of its own, so that a later look
    leaves what earlier ones found as it was.
    """
    paths: Floats = np.zeros((1 + reps, len(taken)))
    bounds = list(pairwise((0, *taken)))
    for task, (of_x, of_y) in enumerate(zip(x, y, strict=True)):
        runs = np.concatenate([scores[low:high] for low, high in bounds for scores in (of_x, of_y)])
        is_x: Floats = np.concatenate(
            [_exchanged(high - low, reps, np.random.default_rng([seed, task, low])) for low, high in bounds], axis=1
        )
        for look, n in enumerate(taken):
            wins = is_x[:, : 2 * n] @ pd.Series(runs[: 2 * n]).rank().to_numpy() - n * (n + 1) / 2
            paths[:, look] += (wins / n**2 - 0.5) / len(x)
    return np.round(paths, 9)  # what ties on paper ties


def _exchanged(n: int, reps: int, random: np.random.Generator) -> Floats:
    """[1 + reps, 2 n] of 0 and 1: which of 2 n runs are x's, the first n in row 0, any n in the others."""
    mine: Floats = np.tile(np.repeat([1.0, 0.0], n), (1 + reps, 1))
    mine[1:] = random.permuted(mine[1:], axis=1)
    return mine


def _decided(paths: Floats, planned: int) -> tuple[float, float]:
    """The smallest level at which row 0 is among the most extreme at one of its looks, and on which side it is there.

    The level is `planned` times what a look may let go of, as a share of all rows. It is 1 where no level will do.
    """
    low, high = 0, len(paths) - 1
    if _crossing(paths, high) is None:
        return 1.0, 0.0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _crossing(paths, middle) is not None else (middle, high)
    return min(1.0, high * planned / len(paths)), float(paths[0, _crossing(paths, high)])


def _crossing(paths: Floats, room: int) -> int | None:
    """The look at which row 0 is let go of, when each look lets go of the `room` most extreme rows still there.

    Rows that tie go together or not at all. What a look does not use is not handed on: with more room every row goes
    as early or earlier, so that a pair decided at one level is decided at every higher one.
    """
    there = np.ones(len(paths), dtype=bool)
    for look, extremes in enumerate(np.abs(paths).T):
        left = np.sort(extremes[there])[::-1]
        if room >= len(left):
            return look
        there &= extremes <= left[room]
        if not there[0]:
            return look
    return None


def _verdict(p: float, side: float) -> str:
    if p > 1 - CONFIDENCE:
        return "undecided"
    return "better" if side > 0 else "worse"
