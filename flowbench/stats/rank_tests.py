"""Exact rank tests: what chance does to two algorithms whose runs are alike, however few the runs and whatever ties."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from flowbench.stats.bootstrap import Floats

ROUNDING = 1e-9


def p_value(x: Floats, y: Floats) -> float:
    """The exact two-sided Mann-Whitney test of two samples, ties included: how often chance is as far from a half."""
    deviations, chances = null(_doubled_ranks(np.concatenate([x, y])), len(x))
    return float(chances[np.abs(deviations) >= abs(_share(x, y) - 0.5) - ROUNDING].sum())


def least_p(runs: int, over_runs: int) -> float:
    """The p-value of all runs of one above all of the other, the smallest there is."""
    deviations, chances = null(untied(runs + over_runs), runs)
    return float(chances[np.abs(deviations) >= 0.5 - ROUNDING].sum())


def stratified_p_value(samples: Sequence[tuple[Floats, Floats]], reps: int, seed: int) -> float:
    """The two-sided permutation test of the mean over tasks of P(x > y), runs permuted within each task.

    Permutations are drawn: the p-value is no less than 1 / (reps + 1).
    """
    if not samples:
        return 1.0
    observed = abs(float(np.mean([_share(x, y) - 0.5 for x, y in samples])))
    random = np.random.default_rng(seed)
    drawn = np.zeros(reps)
    for x, y in samples:
        drawn += drawn_null(_doubled_ranks(np.concatenate([x, y])), len(x), reps, random)
    extreme = np.abs(drawn / len(samples)) >= observed - ROUNDING
    return (1 + int(extreme.sum())) / (reps + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests after Holm: at most 5 % of the times is any found below 0.05 by chance."""
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for place, k in enumerate(sorted(range(len(p_values)), key=lambda k: p_values[k])):
        largest = max(largest, min(1.0, p_values[k] * (len(p_values) - place)))
        adjusted[k] = largest
    return adjusted


def untied(count: int) -> tuple[int, ...]:
    """The ranks, doubled, of so many runs that do not tie."""
    return tuple(range(2, 2 * count + 1, 2))


@lru_cache(maxsize=256)
def null(doubled_ranks: tuple[int, ...], size: int) -> tuple[Floats, Floats]:
    """P(x > y) - 0.5, and how often it comes out so, when any ``size`` of the runs could have been x's.

    Counts the subsets by their sum of ranks, one run after the other, so that no subset is looked at.
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
    """[reps]: P(x > y) - 0.5 of random assignments of the runs to x and y."""
    deviations, chances = null(doubled_ranks, size)
    drawn: Floats = random.choice(deviations, size=reps, p=chances)
    return drawn


def _doubled_ranks(values: Floats) -> tuple[int, ...]:
    """Ranks from 1, a tie's runs sharing their mean; twice that, which is whole."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: list[int] = (2 * last - counts + 1)[places].tolist()
    return tuple(sorted(ranks))


def _share(x: Floats, y: Floats) -> float:
    """P(x > y), a tie counting half."""
    return float(np.mean((np.sign(x[:, None] - y) + 1) / 2))
