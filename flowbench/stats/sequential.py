"""Whether algorithms differ, tested again whenever seeds are added: a group-sequential permutation test.

A fixed test that is repeated whenever seeds are added finds differences that do not exist, the more often the more it
is repeated. Here the number of looks (interim analyses) is fixed before the first run. The probability of a false
verdict, 5 % over all looks and all pairs of algorithms, is split equally between the looks, as in Mathieu et al. 2024,
"AdaStop: adaptive statistical testing for sound comparisons of Deep RL agents". The statistic of a look is P(x > y) of
all seeds so far: the mean over tasks of the Mann-Whitney statistic. Its distribution under chance, over all looks, is
found by exchanging runs of the two algorithms among the seeds that one look added to one task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pandas as pd

from flowbench.stats import rank_tests
from flowbench.stats.bootstrap import REPS, Floats
from flowbench.stats.scores import check

SEEDS_A_LOOK = 5
LEAST = 100  # permutations for each look and pair, at least


@dataclass(frozen=True)
class Pair:
    """The result for two algorithms at the last look that both have all seeds for."""

    algo: str
    over: str
    seeds: int  # of each algorithm
    estimate: float  # P(algo > over), the mean over tasks
    p: float  # corrected for all planned looks and all pairs
    verdict: str  # "better", "worse" or "undecided"


def looks(most: int) -> tuple[int, ...]:
    """The numbers of seeds of each algorithm at which to look, the last being `most`: about every five seeds."""
    count = max(1, round(most / SEEDS_A_LOOK))
    return tuple(round(most * look / count) for look in range(1, count + 1))


def least_p(plan: Sequence[int], tasks: int, pairs: int) -> float:
    """The smallest possible p: every run of one algorithm above every run of the other, on so many tasks."""
    ways: int = math.prod(math.comb(2 * (high - low), high - low) ** tasks for low, high in pairwise((0, *plan)))
    return min(1.0, 2 / ways * len(plan) * pairs)


def pairs(table: pd.DataFrame, plan: Sequence[int], *, reps: int | None = None, seed: int = 0) -> list[Pair]:
    """Every pair of algorithms of one suite, at the last planned look for which both have all seeds.

    `plan` is the result of `looks`: a look at n uses seeds 0 to n - 1; further seeds are ignored. p is the smallest
    level at which one of the looks so far decides the pair, after Holm's correction for the number of pairs. The
    correction is valid for sequential tests as well (Maurer and Bretz 2013, "Multiple testing in group sequential
    trials using graphical approaches"). A pair is decided where p is at most 0.05 and both have three seeds or
    more. A pair without a first look is undecided with p = 1.

    Takes the table of ``at_step``; repeatability and errors: see ``aggregates``. By default there are as many
    permutations as are needed to tell p from 0.05 with this number of looks and pairs.
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
        Pair(*numbers, p, rank_tests.verdict(p, side) if numbers[2] >= rank_tests.FEWEST else rank_tests.UNDECIDED)
        for numbers, p, side in zip(found, rank_tests.holm(levels), sides, strict=True)
    ]


def _paths(x: Floats, y: Floats, taken: Sequence[int], reps: int, seed: int) -> Floats:
    """[1 + reps, looks]: P(x > y) - 0.5 at every look, of the runs as they are (row 0) and with runs exchanged.

    x and y are [tasks, seeds]. Each look and task has its own random stream, so a later look does not change what
    earlier looks found.
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
    return np.round(paths, 9)  # equal statistics must tie in spite of rounding errors


def _exchanged(n: int, reps: int, random: np.random.Generator) -> Floats:
    """[1 + reps, 2 n] of 0 and 1: which of 2 n runs belong to x: the first n in row 0, random n in the other rows."""
    mine: Floats = np.tile(np.repeat([1.0, 0.0], n), (1 + reps, 1))
    mine[1:] = random.permuted(mine[1:], axis=1)
    return mine


def _decided(paths: Floats, planned: int) -> tuple[float, float]:
    """The smallest level at which a look rejects row 0, and P(x > y) - 0.5 at that look.

    The level is `planned` times the share of all rows that a look may reject. It is 1 if no look rejects row 0.
    """
    low, high = 0, len(paths) - 1
    if _crossing(paths, high) is None:
        return 1.0, 0.0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _crossing(paths, middle) is not None else (middle, high)
    return min(1.0, high * planned / len(paths)), float(paths[0, _crossing(paths, high)])


def _crossing(paths: Floats, room: int) -> int | None:
    """The look that rejects row 0 if each look rejects the `room` most extreme of the remaining rows; None if no look.

    Rows that tie are rejected together or not at all. Room that a look does not use is not passed on to later looks:
    with more room every row is rejected at the same look or earlier, so a pair that is decided at one level is decided
    at every higher level.
    """
    remaining = np.ones(len(paths), dtype=bool)
    for look, extremes in enumerate(np.abs(paths).T):
        left = np.sort(extremes[remaining])[::-1]
        if room >= len(left):
            return look
        remaining &= extremes <= left[room]
        if not remaining[0]:
            return look
    return None
