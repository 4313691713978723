"""The stratified bootstrap, on arrays: runs are drawn anew within each task, with replacement; tasks stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
REPS = 10_000
CHUNK = 2**21  # numbers resampled at once: memory stays small however many runs there are

Floats = NDArray[np.float64]


def interval(matrix: NDArray[Any], func: Callable[[NDArray[Any]], Floats], size: int, reps: int, seed: int) -> Floats:
    """[size, 3]: the ``size`` values of ``func`` of a matrix (runs by tasks), each with its interval's two ends.

    ``func`` takes matrices in a batch: [..., runs, tasks] to [..., size]. No runs: NaN; one: no interval.
    """
    numbers = np.full((size, 3), np.nan)
    if len(matrix):
        numbers[:, 0] = func(matrix)
    if len(matrix) > 1:  # one run would give a width of zero, which would claim certainty
        runs, tasks = matrix.shape
        # rliable draws from this generator in this order: the same seed gives its very resamples.
        random, columns = np.random.RandomState(seed), np.arange(tasks)
        found = np.empty((reps, size))
        step = max(1, CHUNK // matrix.size)
        for start in range(0, reps, step):
            drawn = random.randint(0, runs, size=(min(step, reps - start), runs, tasks))
            found[start : start + step] = func(matrix[drawn, columns])
        numbers[:, 1:] = ends(found).T
    return numbers


def times_drawn(random: np.random.Generator, runs: int, reps: int, draws: int | None = None) -> Floats:
    """[reps, runs]: how often each run is among so many draws, as many as there are runs if left out.

    As good as the draws themselves, and a product away from a mean.
    """
    cells = random.integers(runs, size=(reps, draws or runs)) + runs * np.arange(reps)[:, None]
    return np.bincount(cells.ravel(), minlength=reps * runs).reshape(reps, runs).astype(np.float64)


def strata_drawn(random: np.random.Generator, runs: int, tasks: int, reps: int) -> Floats:
    """[reps, runs, tasks]: how often each run is drawn, every task on its own."""
    return np.stack([times_drawn(random, runs, reps) for _ in range(tasks)], axis=2)


def ends(resamples: Floats) -> Floats:
    """[2, ...]: the percentile interval's ends, over the resamples along the first axis."""
    tail = (1 - CONFIDENCE) / 2
    found: Floats = np.quantile(resamples, [tail, 1 - tail], axis=0)
    return found
