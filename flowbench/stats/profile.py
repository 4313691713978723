"""Performance profiles: the share of the runs that score above a threshold, for every threshold."""

from __future__ import annotations

import numpy as np
import pandas as pd

from flowbench.stats.aggregate import score_matrices
from flowbench.stats.bootstrap import REPS, ends, strata_drawn
from flowbench.stats.scores import check

THRESHOLDS = 101


def profiles(table: pd.DataFrame, *, reps: int = REPS, seed: int = 0) -> pd.DataFrame:
    """The share of the runs of one suite, over seeds and tasks, that score above each threshold; 95 % intervals.

    Takes the table of ``at_step``. Returns one row for each algorithm and threshold: algo, threshold, estimate, low,
    high, seeds and tasks (counts). The thresholds span 0 to 1 and all scores, and are the same for all algorithms.
    Only complete seeds are used: an algorithm without any has no rows, with one it has no intervals. Repeatability
    and errors: see ``aggregates``.
    """
    check(table, reps)
    matrices = {algo: matrix for algo, matrix in score_matrices(table).items() if len(matrix)}
    reach = [0.0, 1.0, *(end for matrix in matrices.values() for end in (matrix.min(), matrix.max()))]
    thresholds = np.linspace(min(reach), max(reach), THRESHOLDS)
    frames = []
    for algo, matrix in matrices.items():
        runs, tasks = matrix.shape
        above = (matrix[..., None] > thresholds).reshape(matrix.size, THRESHOLDS).astype(np.float64)
        low = high = np.full(THRESHOLDS, np.nan)
        if runs > 1:
            drawn = strata_drawn(np.random.default_rng(seed), runs, tasks, reps).reshape(reps, matrix.size)
            low, high = ends(drawn @ above / matrix.size)
        numbers = {"threshold": thresholds, "estimate": above.mean(axis=0), "low": low, "high": high}
        frames.append(pd.DataFrame({"algo": algo, **numbers, "seeds": runs, "tasks": tasks}))
    columns = ["algo", "threshold", "estimate", "low", "high", "seeds", "tasks"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)
