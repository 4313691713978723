"""From runs and their evaluations to the table that every statistic reads, with one row for each run.

The input is the two frames of ``flowbench.store.load``: ``runs``, one row for each cell, and ``evals``, one row for
each evaluation. A step is an environment step of the task; a return is undiscounted; a score is a normalised return.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from flowbench.common.errors import is_divergence
from flowbench.stats.published import is_published

RUN = ["suite", "task", "algo", "config_id", "seed"]


def distinct_labels(runs: pd.DataFrame, evals: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both frames with ``label#id`` in place of ``label`` where a label stands for several configs of a suite."""
    names: dict[tuple[str, str, str], str] = {}
    if not runs.empty:
        for (suite, algo), group in runs.groupby(["suite", "algo"]):
            ids = sorted(set(group["config_id"]))
            size = 8
            while len({i[:size] for i in ids}) < len(ids):  # terminates, because the ids differ
                size += 1
            if len(ids) > 1:
                names |= {(str(suite), str(algo), i): f"{algo}#{i[:size]}" for i in ids}

    def rename(frame: pd.DataFrame) -> pd.DataFrame:
        if not names or frame.empty:
            return frame
        keys = zip(frame["suite"], frame["algo"], frame["config_id"], strict=True)
        return frame.assign(algo=[names.get(key, key[1]) for key in keys])

    return rename(runs), rename(evals)


def full_length(runs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs of one suite that train for as many steps as the suite declares, and the shorter ones.

    A short trial run must not reduce the comparison of a whole grid to its few steps. If all runs are short, all are
    in the first frame.
    """
    if "suite_steps" not in runs:
        return runs, runs.iloc[:0]
    published = is_published(runs)
    judged = published if published.all() else ~published  # with runs of ours, published ones are kept
    full = ~judged | (runs["steps"] >= runs["suite_steps"])
    # Of a published run only the last evaluation is known.
    full |= published & (runs["steps"] + runs["every"] > runs["suite_steps"])
    if not full[judged].any():
        return runs, runs.iloc[:0]
    return runs[full], runs[~full]


def common_step(runs: pd.DataFrame, evals: pd.DataFrame) -> int:
    """The step at which one suite is reported by default.

    It is the smallest number of training steps among the runs that are done. If none is done, it is the smallest last
    evaluated step among the runs with an evaluation. Published curves are ignored if there are runs of ours; otherwise
    they count up to the budget of their suite. Raises ValueError if there is no such step or for several suites.
    """
    one_suite(runs)
    published = is_published(runs)
    if not published.all():
        runs = runs[~published]
    elif "suite_steps" in runs:
        runs = runs.assign(steps=runs[["steps", "suite_steps"]].min(axis="columns"))
    done = runs.loc[runs["status"] == "done", "steps"]
    if not done.empty:
        return int(done.min())
    last = of_runs(runs, evals).groupby(RUN)["step"].max()
    onward = of_runs(runs[~ended_diverged(runs)], evals).groupby(RUN)["step"].max()
    last = last if onward.empty else onward  # a diverged run counts at any later step
    if last.empty:
        raise ValueError("no run is done and none has an evaluation, so there is no step to report")
    return int(last.min())


def at_step(runs: pd.DataFrame, evals: pd.DataFrame, step: int) -> pd.DataFrame:
    """One row for each run, with its last finite evaluation at or before ``step``, or the reason why it has none.

    A run counts if it reached ``step``: it has an evaluation at or after it, or its last evaluation is the newest that
    is due by then (last + every > step, within its budget; the budget of a published curve is unknown). A run that
    diverged (its evaluations became NaN, or ``ended_diverged``) counts as having reached ``step`` if its budget did:
    NaN must not spread to the averages, and the worst run must not be dropped without warning. Its last finite
    evaluation is used, and ``diverged`` is set so that the report can warn. If it has none, there is nothing to use and
    ``lost`` is set: the other runs are survivors.

    Columns: those of RUN, ``label`` (the algorithm without ``--label``), ``published``, ``status``, ``error``;
    ``counts`` (bool); ``step`` (of the evaluation used), ``mean`` (return), ``score`` and ``success`` (rate, if known),
    all missing unless the run counts; ``diverged`` and ``lost`` (bool); ``reached`` (the last evaluated step, missing
    if none); ``reason`` (why the run does not count, otherwise empty). Evaluations of cells that are not in ``runs``
    are ignored. Raises ValueError if a cell has two rows in ``runs``.
    """
    if runs.duplicated(RUN).any():
        raise ValueError("the same cell (suite, task, algorithm, config, seed) has more than one row in runs")
    numbers = ["step", "mean", "score", "success"]
    every = of_runs(runs, evals)
    before = every[every["step"] <= step]
    finite = before[np.isfinite(before["mean"]) & np.isfinite(before["score"])]
    used = finite.groupby(RUN).tail(1).reindex(columns=[*RUN, *numbers])

    table = runs[[*RUN, "status", "steps", "every"]].assign(
        published=is_published(runs), label=runs.get("label", runs["algo"]), error=runs.get("error", "")
    )
    table = table.merge(used, on=RUN, how="left")
    for name, steps in (
        ("first", every.groupby(RUN)["step"].min()),
        ("reached", every.groupby(RUN)["step"].max()),
        ("newest", before.groupby(RUN)["step"].max()),
    ):
        table = table.merge(steps.rename(name), left_on=RUN, right_index=True, how="left")
    in_budget = (table["steps"] >= step) | table["published"]
    trained = (table["reached"] >= step) | ((table["reached"] + table["every"] > step) & in_budget)
    ended = ended_diverged(table) & in_budget & ~trained
    arrived = trained | ended
    table["counts"] = arrived & table["step"].notna()
    table["diverged"] = table["counts"] & (ended | (table["newest"] > table["step"]))
    table["lost"] = arrived & table["step"].isna() & ~(table["first"] > step)
    states = zip(table["counts"], arrived, table["first"], table["reached"], strict=True)
    table["reason"] = ["" if counts else _reason(ok, first, last, step) for counts, ok, first, last in states]
    table.loc[~table["counts"], numbers] = np.nan
    table = table.astype({"step": "Int64", "reached": "Int64", "error": object}).fillna({"error": ""})
    columns = [
        *RUN,
        "label",
        "published",
        "status",
        "error",
        "counts",
        *numbers,
        "diverged",
        "lost",
        "reached",
        "reason",
    ]
    return table[columns].sort_values(RUN, ignore_index=True)


def ended_diverged(runs: pd.DataFrame) -> pd.Series[bool]:
    """Which runs ended because a loss or an action became NaN or infinite."""
    errors = runs.get("error", pd.Series("", index=runs.index))
    by_error = errors.fillna("").astype(str).map(is_divergence).astype(bool)
    return (runs["status"] == "failed") & by_error


def missing(table: pd.DataFrame) -> pd.DataFrame:
    """Our cells that do not count, from the ``at_step`` table of one suite.

    Columns: algo, task, seed, status, reached, reason, error. An algorithm should have every task of any algorithm in
    the table, with every seed that it has on any task. A cell that was never started has status ``absent``.
    """
    one_suite(table)
    tasks = sorted(set(table["task"]))
    known = {(row.algo, row.task, row.seed): row for row in table.itertuples()}
    absent = {"status": "absent", "reached": pd.NA, "reason": "never started", "error": ""}
    rows = []
    for algo, group in table[~is_published(table)].groupby("algo"):
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
    """The seeds of each algorithm that count on every task, from the ``at_step`` table of one suite.

    These are the tasks of any algorithm in the table: aggregates over different tasks cannot be compared.
    """
    one_suite(table)
    tasks = table["task"].nunique()
    counts = table[table["counts"]].groupby(["algo", "seed"])["task"].nunique()
    complete = counts[counts == tasks]
    return {algo: sorted(int(s) for a, s in complete.index if a == algo) for algo in sorted(set(table["algo"]))}


def of_runs(runs: pd.DataFrame, evals: pd.DataFrame) -> pd.DataFrame:
    """The evaluations of these runs, sorted by step."""
    if evals.empty:  # may have no columns, and then merge would fail
        return runs[RUN].iloc[:0].assign(step=0, mean=0.0, score=0.0)
    return evals.merge(runs[RUN], on=RUN).sort_values("step", kind="stable")


def _reason(arrived: bool, first: float, reached: float, step: int) -> str:
    if math.isnan(reached):
        return "no evaluation"
    if not arrived:
        return f"evaluated up to step {int(reached):,}"
    return f"first evaluated at step {int(first):,}" if first > step else "no finite evaluation"


def one_suite(frame: pd.DataFrame) -> None:
    """Raise ValueError for a frame of several suites."""
    if frame["suite"].nunique() > 1:
        raise ValueError(f"one suite at a time, not {sorted(set(frame['suite']))}: suites are never pooled")


def check(table: pd.DataFrame, reps: int) -> None:
    """Raise ValueError for several suites, several configs under one label, or fewer than one resample."""
    one_suite(table)
    if reps < 1:
        raise ValueError(f"reps must be 1 or more, not {reps}")
    twice = table[table.duplicated(["algo", "task", "seed"])]
    if not twice.empty:
        raise ValueError(f"{sorted(set(twice['algo']))} name several configs each: call distinct_labels first")
