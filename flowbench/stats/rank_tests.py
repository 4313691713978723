"""Exact rank tests of two algorithms. They are valid for any number of runs and with ties."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from flowbench.stats.bootstrap import CONFIDENCE, Floats

LEVEL = 1 - CONFIDENCE  # a difference is decided where p is at most this
FEWEST = 3  # with fewer runs of either algorithm on any task there is no verdict
ROUNDING = 1e-9
BETTER, WORSE, UNDECIDED, TOO_FEW, NO_TASK = "better", "worse", "undecided", "too few seeds", "no common task"
DECIDED = (BETTER, WORSE)


def verdict(p: float, difference: float) -> str:
    """``better``, ``worse`` or ``undecided``, from a corrected p-value and P(x > y) - 0.5."""
    if p > LEVEL:
        return UNDECIDED
    return BETTER if difference > 0 else WORSE


def enough(sizes: Sequence[tuple[int, int]], tests: int = 1) -> bool:
    """Whether a test could decide anything with so many runs of both algorithms on each task.

    It could not if all runs of x above all runs of y on every task still gave p > 0.05 after the correction for
    ``tests`` tests. Fewer than FEWEST runs are never enough: a verdict on one or two seeds misleads.
    """
    if min(map(min, sizes)) < FEWEST:
        return False
    return 2 / math.prod(math.comb(runs + over_runs, runs) for runs, over_runs in sizes) * tests <= LEVEL


def p_value(x: Floats, y: Floats) -> float:
    """The exact two-sided Mann-Whitney test: the probability under chance of a P(x > y) at least as far from 0.5."""
    deviations, chances = null(_doubled_ranks(np.concatenate([x, y])), len(x))
    return float(chances[np.abs(deviations) >= abs(_share(x, y) - 0.5) - ROUNDING].sum())


def least_p(runs: int, over_runs: int) -> float:
    """The smallest possible p-value: all runs of one algorithm above all runs of the other."""
    deviations, chances = null(untied(runs + over_runs), runs)
    return float(chances[np.abs(deviations) >= 0.5 - ROUNDING].sum())


def stratified_p_value(samples: Sequence[tuple[Floats, Floats]], reps: int, seed: int) -> float:
    """The two-sided permutation test of the mean over tasks of P(x > y); runs are permuted within each task.

    With one task it is ``p_value``. With several, permutations are sampled: p is at least 1 / (reps + 1).
    """
    if len(samples) == 1:
        return p_value(*samples[0])
    observed = abs(float(np.mean([_share(x, y) - 0.5 for x, y in samples])))
    random = np.random.default_rng(seed)
    drawn = np.zeros(reps)
    for x, y in samples:
        drawn += drawn_null(_doubled_ranks(np.concatenate([x, y])), len(x), reps, random)
    extreme = np.abs(drawn / len(samples)) >= observed - ROUNDING
    return (1 + int(extreme.sum())) / (reps + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: the probability of any false decision at p <= 0.05 among these tests is at most 5 %."""
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for place, k in enumerate(sorted(range(len(p_values)), key=lambda k: p_values[k])):
        largest = max(largest, min(1.0, p_values[k] * (len(p_values) - place)))
        adjusted[k] = largest
    return adjusted


def untied(count: int) -> tuple[int, ...]:
    """The doubled ranks of ``count`` runs without ties."""
    return tuple(range(2, 2 * count + 1, 2))


@lru_cache(maxsize=256)
def null(doubled_ranks: tuple[int, ...], size: int) -> tuple[Floats, Floats]:
    """The values of P(x > y) - 0.5 and their probabilities when every choice of ``size`` runs for x is equally likely.

    Counts the subsets of runs by their sum of ranks, adding one run after the other; no subset is enumerated.
    """
    total = sum(sorted(doubled_ranks)[-size:])
    ways = np.zeros((size + 1, total + 1))
    ways[0, 0] = 1
    for rank in doubled_ranks:
        for taken in range(size, 0, -1):
            ways[taken, rank:] += ways[taken - 1, : total + 1 - rank]
    sums: NDArray[np.int64] = np.flatnonzero(ways[size])
    wins = sums / 2 - size * (size + 1) / 2
    chances = ways[size, sums] / ways[size].sum()
    return wins / (size * (len(doubled_ranks) - size)) - 0.5, chances


def drawn_null(doubled_ranks: tuple[int, ...], size: int, reps: int, random: np.random.Generator) -> Floats:
    """[reps]: P(x > y) - 0.5 for random assignments of the runs to x and y."""
    deviations, chances = null(doubled_ranks, size)
    drawn: Floats = random.choice(deviations, size=reps, p=chances)
    return drawn


def _doubled_ranks(values: Floats) -> tuple[int, ...]:
    """Twice the ranks, which start at 1. Ties share their mean rank; doubled, it is a whole number."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: list[int] = (2 * last - counts + 1)[places].tolist()
    return tuple(sorted(ranks))


def _share(x: Floats, y: Floats) -> float:
    """P(x > y); a tie counts half."""
    return float(np.mean((np.sign(x[:, None] - y) + 1) / 2))
