"""The stratified bootstrap on arrays: resample the runs of each task with replacement; keep the tasks fixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
REPS = 10_000
CHUNK = 2**21  # numbers that are resampled at once: bounds the memory for any number of runs

Floats = NDArray[np.float64]


def interval(matrix: NDArray[Any], func: Callable[[NDArray[Any]], Floats], size: int, reps: int, seed: int) -> Floats:
    """[2, size]: the low and high ends of the intervals of the ``size`` values that ``func`` computes.

    ``matrix`` is [runs, tasks]. ``func`` maps a batch of such matrices, [..., runs, tasks], to [..., size]. With fewer
    than two runs the ends are NaN: an interval of width zero would claim certainty.
    """
    if len(matrix) < 2:
        return np.full((2, size), np.nan)
    runs, tasks = matrix.shape
    # rliable draws from this generator in this order: the same seed gives the same resamples.
    random, columns = np.random.RandomState(seed), np.arange(tasks)
    found = np.empty((reps, size))
    step = max(1, CHUNK // matrix.size)
    for start in range(0, reps, step):
        drawn = random.randint(0, runs, size=(min(step, reps - start), runs, tasks))
        found[start : start + step] = func(matrix[drawn, columns])
    return ends(found)


def times_drawn(random: np.random.Generator, runs: int, reps: int, draws: int | None = None) -> Floats:
    """[reps, runs]: how often each run is drawn in a resample of ``draws`` runs (default: as many as there are).

    The product of these counts with the values is the sum over a resample, so no resample is built.
    """
    cells = random.integers(runs, size=(reps, draws or runs)) + runs * np.arange(reps)[:, None]
    return np.bincount(cells.ravel(), minlength=reps * runs).reshape(reps, runs).astype(np.float64)


def strata_drawn(random: np.random.Generator, runs: int, tasks: int, reps: int) -> Floats:
    """[reps, runs, tasks]: how often each run is drawn, independently for each task."""
    return np.stack([times_drawn(random, runs, reps) for _ in range(tasks)], axis=2)


def ends(resamples: Floats) -> Floats:
    """[2, ...]: the low and high ends of the percentile interval over the first axis."""
    tail = (1 - CONFIDENCE) / 2
    found: Floats = np.quantile(resamples, [tail, 1 - tail], axis=0)
    return found
