"""How many seeds would decide a comparison if further runs came out like the present ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flowbench.stats import rank_tests
from flowbench.stats.bootstrap import Floats, times_drawn
from flowbench.stats.pairs import outcomes

POWER = 0.8  # the wanted probability of a decision
SIMULATIONS = 1000
SEEDS: tuple[int, ...] = (*range(rank_tests.FEWEST, 21), 25, 30, 40, 50)  # the numbers of seeds to try, in this order


def seeds_needed(samples: Sequence[tuple[Floats, Floats]], level: float, seed: int) -> int | None:
    """The smallest number of seeds of each algorithm with which the test over these tasks decides with power 0.8.

    ``samples`` are the scores of both algorithms on each task. Experiments are simulated by drawing runs from them with
    replacement. A difference that is due to chance is therefore taken as real: the result is only an estimate. None if
    more than the largest of SEEDS would be needed, or if an algorithm has one run only, which shows no spread.
    """
    if not samples or min(len(scores) for sample in samples for scores in sample) < 2:
        return None
    wins = [outcomes(*sample) for sample in samples]
    for seeds in SEEDS:
        if seeds < max(max(win.shape) for win in wins):
            continue
        random = np.random.default_rng(seed)
        critical = _critical(seeds, len(wins), level, random)
        found = np.mean([_simulated(win, seeds, random) for win in wins], axis=0)
        if float(np.mean(np.abs(found) >= critical - rank_tests.ROUNDING)) >= POWER:
            return seeds
    return None


def _simulated(wins: Floats, seeds: int, random: np.random.Generator) -> Floats:
    """[simulations]: P(x > y) - 0.5 in simulated experiments with this number of seeds of each algorithm."""
    x, y = (times_drawn(random, runs, SIMULATIONS, seeds) for runs in wins.shape)
    shares: Floats = ((x @ wins) * y).sum(axis=1) / seeds**2
    return shares - 0.5


def _critical(seeds: int, tasks: int, level: float, random: np.random.Generator) -> float:
    """The distance of the mean over tasks from 0.5 at which p is at most ``level``; infinite if p never is."""
    ordered = rank_tests.untied(2 * seeds)
    if tasks > 1:
        reps = 10 * SIMULATIONS
        drawn = np.abs(np.mean([rank_tests.drawn_null(ordered, seeds, reps, random) for _ in range(tasks)], axis=0))
        return float(np.quantile(drawn, 1 - level, method="higher")) + 2 * rank_tests.ROUNDING
    deviations, chances = rank_tests.null(ordered, seeds)
    far = np.abs(deviations)
    enough = [value for value in np.unique(far).tolist() if chances[far >= value - rank_tests.ROUNDING].sum() <= level]
    return min(enough, default=np.inf)
