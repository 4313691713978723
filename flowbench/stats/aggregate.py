"""Aggregate scores over the tasks of a suite, and the means of each task."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rliable import metrics

from flowbench.stats.bootstrap import REPS, Floats, interval
from flowbench.stats.scores import check, complete_seeds

TRIMMED = 0.25  # the share of the scores that the interquartile mean drops on either side


def iqm(scores: Floats) -> Floats:
    """[..., runs, tasks] -> [...]: the mean of the middle half of all scores."""
    flat = scores.reshape(*scores.shape[:-2], -1)
    cut = int(TRIMMED * flat.shape[-1])
    end = flat.shape[-1] - cut
    mean: Floats = np.partition(flat, (cut, end - 1), axis=-1)[..., cut:end].mean(axis=-1)
    return mean


def drawn_iqm(values: Floats, drawn: Floats) -> Floats:
    """[resamples]: the IQM of each resample, computed from how often it drew each value ([values, resamples]).

    The values are sorted. A value counts as often as its draws fall into the middle half of the resample.
    """
    order = np.argsort(values)
    cut = int(TRIMMED * len(values))
    kept = len(values) - 2 * cut
    up_to = np.clip(np.cumsum(drawn[order], axis=0, dtype=drawn.dtype) - cut, 0, kept)
    ordered = values[order]
    middle: Floats = ordered[-1] - np.diff(ordered) @ up_to[:-1] / kept
    return middle


def _median(scores: Floats) -> Floats:
    found: Floats = np.median(scores.mean(axis=-2), axis=-1)
    return found


def _mean(scores: Floats) -> Floats:
    found: Floats = scores.mean(axis=-2).mean(axis=-1)
    return found


def _optimality_gap(scores: Floats) -> Floats:
    gap: Floats = 1 - np.minimum(scores, 1).reshape(*scores.shape[:-2], -1).mean(axis=-1)
    return gap


class Metric(NamedTuple):
    """An aggregate: rliable's definition gives the estimate; the same formula on a batch gives the resamples."""

    of_scores: Callable[[Floats], float]  # [runs, tasks] -> number
    of_resamples: Callable[[Floats], Floats]  # [..., runs, tasks] -> [...]


METRICS = {
    "IQM": Metric(metrics.aggregate_iqm, iqm),
    "Median": Metric(metrics.aggregate_median, _median),
    "Mean": Metric(metrics.aggregate_mean, _mean),
    "Optimality Gap": Metric(metrics.aggregate_optimality_gap, _optimality_gap),
}


def score_matrices(table: pd.DataFrame) -> dict[str, Floats]:
    """The scores of the complete seeds of each algorithm, [runs, tasks], from the ``at_step`` table of one suite."""
    tasks = sorted(set(table["task"]))
    matrices = {}
    for algo, seeds in complete_seeds(table).items():
        own = table[(table["algo"] == algo) & table["counts"]]
        # A transposed matrix would raise no error, but the wrong axis would be resampled.
        scores = own.pivot(index="seed", columns="task", values="score").reindex(index=seeds, columns=tasks)
        matrices[algo] = scores.to_numpy(dtype=np.float64)
    return matrices


def aggregates(table: pd.DataFrame, *, reps: int = REPS, seed: int = 0) -> pd.DataFrame:
    """IQM, median, mean and optimality gap (at 1) of the normalised scores of one suite, with 95 % intervals.

    Takes the table of ``at_step``. Returns one row for each algorithm and metric: algo, metric, estimate, low, high,
    seeds and tasks (counts). Only complete seeds are used. Without any, estimate and interval are NaN; with one, only
    the interval is NaN. The same ``seed`` gives the same intervals; they do not depend on the other algorithms in the
    table. Raises ValueError for several suites, several configs with one label, or fewer than one resample.
    """
    check(table, reps)
    rows = []
    for algo, matrix in score_matrices(table).items():
        low, high = interval(matrix, _resampled, len(METRICS), reps, seed).tolist()
        for k, (name, metric) in enumerate(METRICS.items()):
            estimate = float(metric.of_scores(matrix)) if len(matrix) else math.nan
            rows.append((algo, name, estimate, low[k], high[k], *matrix.shape))
    return pd.DataFrame(rows, columns=["algo", "metric", "estimate", "low", "high", "seeds", "tasks"])


def _resampled(scores: Floats) -> Floats:
    return np.stack([metric.of_resamples(scores) for metric in METRICS.values()], axis=-1)


def per_task(table: pd.DataFrame, *, reps: int = REPS, seed: int = 0) -> pd.DataFrame:
    """Mean return and mean normalised score for each task and algorithm of one suite, with 95 % intervals.

    Takes the table of ``at_step``. Returns task, algo, mean, low, high (returns), score, score_low, score_high and
    seeds (count). The mean of a task uses every seed that counts on that task, whether the seed is complete or not.
    Without a seed all numbers are NaN; with one, the intervals are NaN. Repeatability and errors: see ``aggregates``.
    """
    check(table, reps)
    columns = ["task", "algo", "mean", "low", "high", "score", "score_low", "score_high", "seeds"]
    return pd.DataFrame(_task_means(table, ["mean", "score"], reps, seed), columns=columns)


def success_rates(table: pd.DataFrame, *, reps: int = REPS, seed: int = 0) -> pd.DataFrame:
    """Mean success rate for each task and algorithm of one suite, with 95 % intervals.

    Takes the table of ``at_step``. Returns task, algo, success, low, high and seeds (count). Only runs with a recorded
    success rate are used, and only tasks that have such a run. Otherwise like ``per_task``.
    """
    check(table, reps)
    known = table.assign(counts=table["counts"] & table["success"].notna())
    tasks = set(known.loc[known["counts"], "task"])
    rows = [row for row in _task_means(known, ["success"], reps, seed) if row[0] in tasks]
    return pd.DataFrame(rows, columns=["task", "algo", "success", "low", "high", "seeds"])


def _task_means(table: pd.DataFrame, columns: list[str], reps: int, seed: int) -> list[tuple[Any, ...]]:
    """(task, algo; mean, low, high of each column; seeds), sorted by task and algorithm."""
    empty = pd.DataFrame({column: [] for column in columns})
    rows: list[tuple[Any, ...]] = []
    for algo in sorted(set(table["algo"])):
        own = dict(list(table[(table["algo"] == algo) & table["counts"]].sort_values("seed").groupby("task")))
        sizes = {task: len(own.get(task, empty)) for task in sorted(set(table["task"]))}
        for size in sorted(set(sizes.values())):
            tasks = [task for task in sizes if sizes[task] == size]
            values = np.stack([own.get(task, empty)[columns].to_numpy() for task in tasks], axis=1)

            def means(drawn: NDArray[np.int64], values: Floats = values) -> Floats:
                mean: Floats = values[drawn, np.arange(drawn.shape[-1])].mean(axis=-3)
                return mean.reshape(*mean.shape[:-2], -1)

            # Resample row numbers, not values, so that all columns of a task share their draws.
            index = np.tile(np.arange(size)[:, None], (1, len(tasks)))
            count = len(columns) * len(tasks)
            estimates = means(index) if size else np.full(count, np.nan)
            numbers = np.column_stack([estimates, *interval(index, means, count, reps, seed)])
            for task, line in zip(tasks, numbers.reshape(len(tasks), -1).tolist(), strict=True):
                rows.append((task, algo, *line, size))
    return sorted(rows, key=lambda row: row[:2])
