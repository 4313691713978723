"""Aggregates over a suite's tasks, and each task's means."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rliable import metrics

from flowbench.stats.bootstrap import REPS, Floats, interval
from flowbench.stats.scores import check, complete_seeds

TRIMMED = 0.25  # the share of the runs that the interquartile mean leaves out on either side


def iqm(scores: Floats) -> Floats:
    """[..., runs, tasks] -> [...]: the mean of the middle half of all the scores."""
    flat = scores.reshape(*scores.shape[:-2], -1)
    cut = int(TRIMMED * flat.shape[-1])
    end = flat.shape[-1] - cut
    mean: Floats = np.partition(flat, (cut, end - 1), axis=-1)[..., cut:end].mean(axis=-1)
    return mean


def drawn_iqm(values: Floats, drawn: Floats) -> Floats:
    """[resamples]: the IQM of each, from how often it drew each value ([values, resamples]): no resample is built.

    With the values in order, the middle half of a resample holds each as often as its draws lie between the two cuts.
    """
    order = np.argsort(values)
    cut = int(TRIMMED * len(values))
    kept = len(values) - 2 * cut
    up_to = np.clip(np.cumsum(drawn[order], axis=0, dtype=drawn.dtype) - cut, 0, kept)
    ordered = values[order]
    middle: Floats = ordered[-1] - np.diff(ordered) @ up_to[:-1] / kept
    return middle


def median(scores: Floats) -> Floats:
    """[..., runs, tasks] -> [...]: the median of the tasks' means."""
    found: Floats = np.median(scores.mean(axis=-2), axis=-1)
    return found


def mean(scores: Floats) -> Floats:
    """[..., runs, tasks] -> [...]: the mean of the tasks' means."""
    found: Floats = scores.mean(axis=-2).mean(axis=-1)
    return found


def optimality_gap(scores: Floats) -> Floats:
    """[..., runs, tasks] -> [...]: how far the scores, none counted above 1, fall short of 1 on average."""
    gap: Floats = 1 - np.minimum(scores, 1).reshape(*scores.shape[:-2], -1).mean(axis=-1)
    return gap


METRICS: dict[str, Callable[[Floats], Floats]] = {
    "IQM": iqm,
    "Median": median,
    "Mean": mean,
    "Optimality Gap": optimality_gap,
}
RLIABLE: dict[str, Callable[[Floats], float]] = {  # of one matrix, where these here take a batch of them
    "IQM": metrics.aggregate_iqm,
    "Median": metrics.aggregate_median,
    "Mean": metrics.aggregate_mean,
    "Optimality Gap": metrics.aggregate_optimality_gap,
}


def score_matrices(table: pd.DataFrame) -> dict[str, Floats]:
    """For every algorithm of one suite's ``at_step`` table, the scores of its complete seeds: runs by tasks."""
    tasks = sorted(set(table["task"]))
    matrices = {}
    for algo, seeds in complete_seeds(table).items():
        own = table[(table["algo"] == algo) & table["counts"]]
        # Runs down, tasks across: a transposed matrix would raise nothing and have the wrong axis resampled.
        scores = own.pivot(index="seed", columns="task", values="score").reindex(index=seeds, columns=tasks)
        matrices[algo] = scores.to_numpy(dtype=np.float64)
    return matrices


def aggregates(table: pd.DataFrame, *, reps: int = REPS, seed: int = 0) -> pd.DataFrame:
    """IQM, median, mean and optimality gap (at 1) of one suite's normalised scores, with 95 % intervals.

    Takes the table of ``at_step``; returns one row an algorithm and metric: algo, metric, estimate, low, high,
    seeds and tasks (counts). Uses the complete seeds; without any, estimate and interval are NaN; with one, the
    interval is. The estimates are rliable's own; the intervals are those of its bootstrap, without its loops in Python.
    The same ``seed`` gives the same intervals, whichever other algorithms are in the table. Raises ValueError for
    several suites, several configs under one label, or fewer than one resample.
    """
    check(table, reps)
    rows = []
    for algo, matrix in score_matrices(table).items():
        numbers = interval(matrix, _all_metrics, len(METRICS), reps, seed)
        for metric, (_, low, high) in zip(METRICS, numbers.tolist(), strict=True):
            estimate = float(RLIABLE[metric](matrix)) if len(matrix) else math.nan
            rows.append((algo, metric, estimate, low, high, *matrix.shape))
    return pd.DataFrame(rows, columns=["algo", "metric", "estimate", "low", "high", "seeds", "tasks"])


def per_task(table: pd.DataFrame, *, reps: int = REPS, seed: int = 0) -> pd.DataFrame:
    """Mean return and mean normalised score of every task and algorithm of one suite, with 95 % intervals.

    Takes the table of ``at_step``; returns task, algo, mean, low, high (returns), score, score_low, score_high
    and seeds (count). A task's mean uses every seed that counts on it, complete elsewhere or not. No seed: all
    NaN; one: the intervals are NaN. Repeatable and raising as ``aggregates``.
    """
    check(table, reps)
    columns = ["task", "algo", "mean", "low", "high", "score", "score_low", "score_high", "seeds"]
    return pd.DataFrame(_task_means(table, ["mean", "score"], reps, seed), columns=columns)


def success_rates(table: pd.DataFrame, *, reps: int = REPS, seed: int = 0) -> pd.DataFrame:
    """Mean success rate of every task and algorithm of one suite, with 95 % intervals, where there are any.

    Takes the table of ``at_step``; returns task, algo, success, low, high and seeds (count), over the runs that have
    a rate and for the tasks on which any has one. Otherwise as ``per_task``.
    """
    check(table, reps)
    known = table.assign(counts=table["counts"] & table["success"].notna())
    tasks = set(known.loc[known["counts"], "task"])
    rows = [row for row in _task_means(known, ["success"], reps, seed) if row[0] in tasks]
    return pd.DataFrame(rows, columns=["task", "algo", "success", "low", "high", "seeds"])


def _task_means(table: pd.DataFrame, columns: list[str], reps: int, seed: int) -> list[tuple[Any, ...]]:
    """(task, algo, mean, low, high of each column, seeds), sorted by task and algorithm."""
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

            # Row numbers are resampled, not values: a task's columns then share their draws.
            index = np.tile(np.arange(size)[:, None], (1, len(tasks)))
            numbers = interval(index, means, len(columns) * len(tasks), reps, seed).reshape(len(tasks), -1).tolist()
            rows += [(task, algo, *line, size) for task, line in zip(tasks, numbers, strict=True)]
    return sorted(rows, key=lambda row: row[:2])


def _all_metrics(scores: Floats) -> Floats:
    return np.stack([metric(scores) for metric in METRICS.values()], axis=-1)
