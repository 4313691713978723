"""Statistics of a suite's runs: DataFrame -> DataFrame, through rliable, printing nothing.

The estimates and their intervals are those of Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge
of the Statistical Precipice": interquartile mean, median, mean and optimality gap of the normalised scores,
with percentile intervals from a bootstrap stratified by task (the seeds of each task are resampled on their
own; the tasks are not). So is the probability of improvement; rliable resamples it one Mann-Whitney test a task
and resample at a time, seconds a pair, so its resampling is done here, on arrays.

Two frames come in, as ``flowbench.store.load`` gives them: ``runs``, one row a cell, and ``evals``, one row an
evaluation. ``at_step`` turns them into one table, a row a run, that everything after it reads. A step is an
environment step of the task; a return is undiscounted; a score is a normalised return.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rliable import library, metrics

RUN = ["suite", "task", "algo", "config_id", "seed"]
CONFIDENCE = 0.95
REPS = 10_000
METRICS: dict[str, Callable[[NDArray[np.float64]], Any]] = {
    "IQM": metrics.aggregate_iqm,
    "Median": metrics.aggregate_median,
    "Mean": metrics.aggregate_mean,
    "Optimality Gap": metrics.aggregate_optimality_gap,
}


def distinct_labels(runs: pd.DataFrame, evals: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both frames with ``label#id`` for ``label`` wherever, within a suite, one label stands for several configs."""
    names: dict[tuple[str, str, str], str] = {}
    if not runs.empty:
        for (suite, algo), group in runs.groupby(["suite", "algo"]):
            ids = sorted(set(group["config_id"]))
            size = 8
            while len({i[:size] for i in ids}) < len(ids):  # ends: the ids themselves differ
                size += 1
            if len(ids) > 1:
                names |= {(str(suite), str(algo), i): f"{algo}#{i[:size]}" for i in ids}

    def rename(frame: pd.DataFrame) -> pd.DataFrame:
        if not names or frame.empty:
            return frame
        keys = zip(frame["suite"], frame["algo"], frame["config_id"], strict=True)
        return frame.assign(algo=[names.get(key, key[1]) for key in keys])

    return rename(runs), rename(evals)


def common_step(runs: pd.DataFrame, evals: pd.DataFrame) -> int:
    """The step at which one suite is reported unless another is asked for.

    The smallest budget among the runs that are done: a short run must not be set beside the later half of a
    long one. If none is done, the smallest last evaluated step among the runs that have an evaluation.
    Raises ValueError if there is neither, or if the runs are of several suites.
    """
    _one_suite(runs)
    done = runs.loc[runs["status"] == "done", "steps"]
    if not done.empty:
        return int(done.min())
    last = _of_runs(runs, evals).groupby(RUN)["step"].max()
    if last.empty:
        raise ValueError("no run is done and none has an evaluation, so there is no step to report")
    return int(last.min())


def at_step(runs: pd.DataFrame, evals: pd.DataFrame, step: int) -> pd.DataFrame:
    """One row a run, with its last finite evaluation at or before ``step``, or the reason it has none.

    A run counts if it reached ``step``: it has an evaluation at or after it, or its last evaluation is the
    newest that its interval allows by then (last + every > step, within its budget). A run that diverged
    reached it too; NaN must neither spread to every average nor quietly drop the worst run, so its last
    finite evaluation counts and ``diverged`` is set for the report to say so.

    Columns: those of RUN, ``status``, ``error``; ``counts`` (bool); ``step`` (of the evaluation used), ``mean``
    (return) and ``score``, all missing unless it counts; ``diverged`` (bool); ``reached`` (the last evaluated
    step, missing if none); ``reason`` (why it does not count, else empty). Evaluations of cells that are not in
    ``runs`` are left out. Raises ValueError if a cell has two rows in ``runs``.
    """
    if runs.duplicated(RUN).any():
        raise ValueError("the same cell (suite, task, algorithm, config, seed) has more than one row in runs")
    every = _of_runs(runs, evals)
    before = every[every["step"] <= step]
    finite = before[np.isfinite(before["mean"]) & np.isfinite(before["score"])]
    used = finite.groupby(RUN).tail(1)[[*RUN, "step", "mean", "score"]]

    table = runs[[*RUN, "status", "steps", "every"]].assign(error=runs.get("error", ""))
    table = table.merge(used, on=RUN, how="left")
    for name, steps in (
        ("first", every.groupby(RUN)["step"].min()),
        ("reached", every.groupby(RUN)["step"].max()),
        ("newest", before.groupby(RUN)["step"].max()),
    ):
        table = table.merge(steps.rename(name), left_on=RUN, right_index=True, how="left")
    arrived = (table["reached"] >= step) | ((table["reached"] + table["every"] > step) & (table["steps"] >= step))
    table["counts"] = arrived & table["step"].notna()
    table["diverged"] = table["counts"] & (table["newest"] > table["step"])
    facts = zip(table["counts"], arrived, table["first"], table["reached"], strict=True)
    table["reason"] = ["" if counts else _reason(ok, first, last, step) for counts, ok, first, last in facts]
    table.loc[~table["counts"], ["step", "mean", "score"]] = np.nan
    table = table.astype({"step": "Int64", "reached": "Int64", "error": object}).fillna({"error": ""})
    columns = [*RUN, "status", "error", "counts", "step", "mean", "score", "diverged", "reached", "reason"]
    return table[columns].sort_values(RUN, ignore_index=True)


def missing(table: pd.DataFrame) -> pd.DataFrame:
    """The cells of one suite's ``at_step`` table that do not count: algo, task, seed, status, reached, reason, error.

    Looked for over every task of any algorithm here, and every seed that the algorithm has on any task. A cell
    that was never started has status ``absent``.
    """
    _one_suite(table)
    tasks = sorted(set(table["task"]))
    known = {(row.algo, row.task, row.seed): row for row in table.itertuples()}
    absent = {"status": "absent", "reached": pd.NA, "reason": "never started", "error": ""}
    rows = []
    for algo, group in table.groupby("algo"):
        for task in tasks:
            for seed in sorted(set(group["seed"])):
                row: Any = known.get((algo, task, seed))
                if row is None:
                    rows.append({"algo": algo, "task": task, "seed": seed, **absent})
                elif not row.counts:
                    rows.append({name: getattr(row, name) for name in ("algo", "task", "seed", *absent)})
    frame = pd.DataFrame(rows, columns=["algo", "task", "seed", *absent])
    return frame.astype({"seed": int, "reached": "Int64"})


def complete_seeds(table: pd.DataFrame) -> dict[str, list[int]]:
    """For every algorithm of one suite's ``at_step`` table, the seeds that count on every task of any algorithm.

    Every task of any algorithm, not of this one: aggregates over different tasks cannot stand side by side.
    """
    _one_suite(table)
    tasks = table["task"].nunique()
    counts = table[table["counts"]].groupby(["algo", "seed"])["task"].nunique()
    complete = counts[counts == tasks]
    return {algo: sorted(int(s) for a, s in complete.index if a == algo) for algo in sorted(set(table["algo"]))}


def aggregates(table: pd.DataFrame, *, reps: int = REPS, seed: int = 0) -> pd.DataFrame:
    """IQM, median, mean and optimality gap (at 1) of one suite's normalised scores, with 95 % intervals.

    Takes the table of ``at_step``; returns one row an algorithm and metric: algo, metric, estimate, low, high,
    seeds and tasks (counts). Uses the complete seeds; without any, estimate and interval are NaN; with one, the
    interval is. The same ``seed`` gives the same intervals, whichever other algorithms are in the table.
    Raises ValueError for several suites, several configs under one label, or fewer than one resample.
    """
    _check(table, reps)
    tasks = sorted(set(table["task"]))
    rows = []
    for algo, seeds in complete_seeds(table).items():
        own = table[(table["algo"] == algo) & table["counts"]]
        # Runs down, tasks across: rliable takes the transposed matrix without a word and resamples the wrong axis.
        scores = own.pivot(index="seed", columns="task", values="score").reindex(index=seeds, columns=tasks)
        matrix = scores.to_numpy(dtype=np.float64)
        numbers = _interval(matrix, lambda x: np.array([f(x) for f in METRICS.values()]), len(METRICS), reps, seed)
        for metric, line in zip(METRICS, numbers.tolist(), strict=True):
            rows.append((algo, metric, *line, len(seeds), len(tasks)))
    return pd.DataFrame(rows, columns=["algo", "metric", "estimate", "low", "high", "seeds", "tasks"])


def per_task(table: pd.DataFrame, *, reps: int = REPS, seed: int = 0) -> pd.DataFrame:
    """Mean return and mean normalised score of every task and algorithm of one suite, with 95 % intervals.

    Takes the table of ``at_step``; returns task, algo, mean, low, high (returns), score, score_low, score_high
    and seeds (count). A task's mean uses every seed that counts on it, complete elsewhere or not. No seed: all
    NaN; one: the intervals are NaN. Repeatable and raising as ``aggregates``.
    """
    _check(table, reps)
    empty = pd.DataFrame({"mean": [], "score": []})
    rows = []
    for algo in sorted(set(table["algo"])):
        own = dict(list(table[(table["algo"] == algo) & table["counts"]].sort_values("seed").groupby("task")))
        sizes = {task: len(own.get(task, empty)) for task in sorted(set(table["task"]))}
        for size in sorted(set(sizes.values())):
            tasks = [task for task in sizes if sizes[task] == size]
            values = np.stack([own.get(task, empty)[["mean", "score"]].to_numpy() for task in tasks], axis=1)

            def means(drawn: NDArray[np.int64], values: NDArray[np.float64] = values) -> NDArray[np.float64]:
                mean: NDArray[np.float64] = np.take_along_axis(values, drawn[..., None], axis=0).mean(axis=0)
                return mean.ravel()

            # Row numbers are resampled, not values: a task's return and score then share their draws.
            index = np.tile(np.arange(size)[:, None], (1, len(tasks)))
            numbers = _interval(index, means, 2 * len(tasks), reps, seed).reshape(len(tasks), 6).tolist()
            rows += [(task, algo, *line, size) for task, line in zip(tasks, numbers, strict=True)]
    columns = ["task", "algo", "mean", "low", "high", "score", "score_low", "score_high", "seeds"]
    return pd.DataFrame(rows, columns=columns).sort_values(["task", "algo"], ignore_index=True)


def improvement(table: pd.DataFrame, *, reps: int = REPS, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """P(algo > over) for every pair of one suite's algorithms: over the tasks that both have, and on each of these.

    On a task it is the share of all pairs (a run of ``algo``, a run of ``over``) in which the first scores higher,
    ties counting half: Mann-Whitney's U over the number of pairs. Over the tasks it is the mean of the tasks'. The
    runs of each algorithm are resampled within each task, on their own. Every run that counts is used, so tasks may
    differ in their seeds. A task with one run of either algorithm has no interval, nor has a mean over it.

    Takes the table of ``at_step``; returns two frames, a row a pair (algo before over in the alphabet; the other way
    round is 1 - P) and a row a pair and task. Columns: ``task`` (second frame only), algo, over, estimate, low, high,
    ``seeds`` and ``over_seeds`` (the fewest on any of the tasks), ``tasks`` (first frame only: how many both have),
    ``verdict``. Repeatable and raising as ``aggregates``; a pair's numbers do not depend on the other algorithms.
    """
    _check(table, reps)
    counted = table[table["counts"]].sort_values("seed")
    scores = {key: group["score"].to_numpy(dtype=np.float64) for key, group in counted.groupby(["algo", "task"])}
    overall, each = [], []
    for algo, over in combinations(sorted(set(table["algo"])), 2):
        tasks = [t for t in sorted(set(table["task"])) if (algo, t) in scores and (over, t) in scores]
        wins = [_wins(scores[algo, task], scores[over, task]) for task in tasks]
        points = np.array([win.mean() for win in wins])
        drawn = _drawn_wins(wins, reps, seed)
        for place, task in enumerate(tasks):
            each.append((task, algo, over, *_compared(points[[place]], drawn[[place]], wins[place : place + 1])))
        overall.append((algo, over, *_compared(points, drawn, wins), len(tasks)))
    columns = ["algo", "over", "estimate", "low", "high", "seeds", "over_seeds", "verdict"]
    by_task = pd.DataFrame(each, columns=["task", *columns])
    return pd.DataFrame(overall, columns=[*columns, "tasks"]), by_task


def _wins(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """[runs of x, runs of y]: 1 where x's score is higher, 0.5 where they tie, 0 elsewhere."""
    return np.where(x[:, None] > y, 1.0, np.where(x[:, None] == y, 0.5, 0.0))


def _drawn_wins(wins: Sequence[NDArray[np.float64]], reps: int, seed: int) -> NDArray[np.float64]:
    """[tasks, reps]: the mean of each task's wins with its rows and its columns drawn anew, with replacement."""
    random = np.random.default_rng(seed)

    def times(runs: int) -> NDArray[np.float64]:
        """[reps, runs]: how often each run is drawn; as good as the draws, and a product away from the mean."""
        cells = random.integers(runs, size=(reps, runs)) + runs * np.arange(reps)[:, None]
        return np.bincount(cells.ravel(), minlength=reps * runs).reshape(reps, runs).astype(np.float64)

    means = [((times(len(win)) @ win) * times(win.shape[1])).sum(axis=1) / win.size for win in wins]
    return np.array(means).reshape(len(wins), reps)


def _compared(
    points: NDArray[np.float64], drawn: NDArray[np.float64], wins: Sequence[NDArray[np.float64]]
) -> tuple[float, float, float, int, int, str]:
    """Estimate, low, high, the fewest runs of either algorithm and the verdict, over tasks ([tasks], [tasks, reps])."""
    if not wins:
        return math.nan, math.nan, math.nan, 0, 0, "no common task"
    fewest = min(len(win) for win in wins), min(win.shape[1] for win in wins)
    low = high = math.nan
    if min(fewest) > 1:
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(drawn.mean(axis=0), [tail, 1 - tail]).tolist()
    return float(points.mean()), low, high, *fewest, _verdict(low, high, wins)


def _verdict(low: float, high: float, wins: Sequence[NDArray[np.float64]]) -> str:
    """``better`` or ``worse`` if the interval lies beyond 0.5, else ``undecided``; ``too few seeds`` to tell.

    Runs that lie all on one side give an interval without width, however few they are: it would call three seeds
    against three better for what two equal algorithms do in one case of ten. So there is no verdict where even that
    extreme, either way round, is likelier by chance than the interval leaves room for.
    """
    orders = math.prod(math.comb(sum(win.shape), len(win)) for win in wins)
    if math.isnan(low) or 2 / orders > 1 - CONFIDENCE:
        return "too few seeds"
    rounding = 1e-9  # a mean over tasks that is 0.5 on paper may be off by this much
    if low > 0.5 + rounding:
        return "better"
    return "worse" if high < 0.5 - rounding else "undecided"


def _interval(
    matrix: NDArray[Any], func: Callable[[NDArray[Any]], NDArray[np.float64]], size: int, reps: int, seed: int
) -> NDArray[np.float64]:
    """[size, 3]: the ``size`` values of ``func`` of a matrix (runs by tasks), each with its interval's two ends."""
    numbers = np.full((size, 3), np.nan)
    if len(matrix) == 1:  # no resampling: one run gives a width of zero, which would claim certainty
        numbers[:, 0] = func(matrix)
    elif len(matrix) > 1:
        # A made-up name: labels such as td3[tau=0.01,period=1] hold commas, which rliable splits names at.
        with _numpy_seed(seed):
            points, bounds = library.get_interval_estimates(
                {"one": matrix}, func, reps=reps, confidence_interval_size=CONFIDENCE
            )
        numbers[:, 0], numbers[:, 1:] = points["one"], bounds["one"].T
    return numbers


@contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator, the only one rliable draws from, and put its state back afterwards."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)


def _of_runs(runs: pd.DataFrame, evals: pd.DataFrame) -> pd.DataFrame:
    """The evaluations of these runs, in the order of their steps."""
    if evals.empty:  # may have no columns, which merge would not take
        return runs[RUN].iloc[:0].assign(step=0, mean=0.0, score=0.0)
    return evals.merge(runs[RUN], on=RUN).sort_values("step", kind="stable")


def _reason(arrived: bool, first: float, reached: float, step: int) -> str:
    if math.isnan(reached):
        return "no evaluation"
    if not arrived:
        return f"evaluated up to step {int(reached):,}"
    return f"first evaluated at step {int(first):,}" if first > step else "no finite evaluation"


def _one_suite(frame: pd.DataFrame) -> None:
    if frame["suite"].nunique() > 1:
        raise ValueError(f"one suite at a time, not {sorted(set(frame['suite']))}: suites are never pooled")


def _check(table: pd.DataFrame, reps: int) -> None:
    _one_suite(table)
    if reps < 1:
        raise ValueError(f"reps must be 1 or more, not {reps}")
    twice = table[table.duplicated(["algo", "task", "seed"])]
    if not twice.empty:
        raise ValueError(f"{sorted(set(twice['algo']))} name several configs each: call distinct_labels first")
