"""How many seeds would decide what is open, if more runs came out as those that there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flowbench.stats import rank_tests
from flowbench.stats.bootstrap import Floats, times_drawn
from flowbench.stats.pairs import outcomes

POWER = 0.8  # the chance of a decision that is wanted
SIMULATIONS = 1000
SEEDS: tuple[int, ...] = (*range(2, 21), 25, 30, 40, 50)  # tried one after the other


def seeds_needed(samples: Sequence[tuple[Floats, Floats]], level: float, seed: int) -> int | None:
    """The fewest seeds of each algorithm with which the test over these tasks would be decided four times in five.

    ``samples`` are the scores of both on every task. Experiments are simulated by drawing runs from them with
    replacement, so a difference that is there by chance is taken for a real one: it is an estimate, no promise. None
    if more than the largest of SEEDS would be needed, or if an algorithm has a single run, which shows no spread.
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
    """[simulations]: P(x > y) - 0.5 in experiments of so many seeds of each."""
    x, y = (times_drawn(random, runs, SIMULATIONS, seeds) for runs in wins.shape)
    shares: Floats = ((x @ wins) * y).sum(axis=1) / seeds**2
    return shares - 0.5


def _critical(seeds: int, tasks: int, level: float, random: np.random.Generator) -> float:
    """How far from a half the mean over tasks must lie for p to be at most ``level``; infinite if nothing is enough."""
    ordered = rank_tests.untied(2 * seeds)
    if tasks > 1:
        reps = 10 * SIMULATIONS
        drawn = np.abs(np.mean([rank_tests.drawn_null(ordered, seeds, reps, random) for _ in range(tasks)], axis=0))
        return float(np.quantile(drawn, 1 - level, method="higher")) + 2 * rank_tests.ROUNDING
    deviations, chances = rank_tests.null(ordered, seeds)
    far = np.abs(deviations)
    enough = [value for value in np.unique(far).tolist() if chances[far >= value - rank_tests.ROUNDING].sum() <= level]
    return min(enough, default=np.inf)
