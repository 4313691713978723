"""Reads the runs of a results folder into two DataFrames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import suites
from flowbench.common.errors import UsageError, unknown
from flowbench.plan.cells import Cell
from flowbench.store import csv_rows
from flowbench.store.records import NotARun, folders, read_placed, status_now

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Results:
    """What a results folder holds."""

    runs: pd.DataFrame  # one row a run
    evals: pd.DataFrame  # one row an evaluation of a run
    problems: list[str]  # folders that look like runs but cannot be read, one line each


RUN_COLUMNS = [
    "suite", "task", "algo", "config_id", "seed", "status", "steps", "every", "low", "high", "comparable", "note",
    "tasks", "suite_steps", "error", "folder", "software", "action_repeat", "episodes", "mujoco", "dm_control",
    "device", "precision", "auto", "published", "origin",
]  # fmt: skip


EVAL_KEYS = ["suite", "task", "algo", "config_id", "seed", "published"]


EVAL_NUMBERS = ["step", "mean", "score", "seconds", "success"]


def check_root(root: Path) -> None:
    """Raise UsageError when there is no results folder."""
    if not root.is_dir():
        raise UsageError(f"there is no results folder {str(root)!r}; flowbench run makes it, or pass --results")


class Selection:
    """The runs of the named suites and algorithms (by name or label), or all."""

    def __init__(self, suite_names: Sequence[str], algo_names: Sequence[str]) -> None:
        self._wanted = {"suite": suite_names, "algorithm": algo_names}
        self._seen: dict[str, set[str]] = {kind: set() for kind in self._wanted}

    def takes(self, run: Mapping[str, Any]) -> bool:
        """Whether a record is of a selected run."""
        names = {"suite": {run["suite"]["name"]}, "algorithm": {run["algo"]["name"], run["algo"]["label"]}}
        for kind, wanted in self._wanted.items():
            self._seen[kind] |= names[kind]
            if wanted and names[kind].isdisjoint(wanted):
                return False
        return True

    def check(self, root: Path) -> None:
        """Raise UsageError when a name has selected none of the runs seen, which lie below `root`."""
        for kind, wanted in self._wanted.items():
            for name in wanted:
                if name not in self._seen[kind]:
                    raise UsageError(f"{root}: {unknown(f'{kind} in these results', name, sorted(self._seen[kind]))}")


class Exactly:
    """The runs of these cells, and on their tasks the published ones of these algorithms, as their files call them."""

    def __init__(self, cells: Sequence[Cell], published: Sequence[str] = ()) -> None:
        # A label, too: one configuration has another where a suite's defaults have changed, and lies in two folders.
        self._cells = {(*_task(cell), cell.variant.label, cell.variant.config_id, cell.seed) for cell in cells}
        self._tasks = {_task(cell) for cell in cells}
        self._published = set(published)

    def takes(self, run: Mapping[str, Any]) -> bool:
        """Whether a record is of a selected run."""
        task = run["suite"]["name"], run["task"]["name"]
        if "published" in run:
            return task in self._tasks and run["published"].get("algo") in self._published
        return (*task, run["algo"]["label"], run["config_id"], run["seed"]) in self._cells

    def check(self, root: Path) -> None:
        """A cell that is not there selects nothing."""


def _task(cell: Cell) -> tuple[str, str]:
    return cell.suite.name, cell.task.name


def load_results(root: Path, suite_names: Sequence[str] = (), algo_names: Sequence[str] = ()) -> Results:
    """Read every run below `root`, or those of the named suites and algorithms (by name or label).

    Raises UsageError when the folder does not exist or a name selects nothing.
    """
    return load_selected(root, Selection(suite_names, algo_names))


def load_selected(root: Path, selection: Selection | Exactly) -> Results:
    """Read the selected runs below `root`. Raises UsageError as `load` does."""
    import pandas as pd

    check_root(root)
    runs: list[dict[str, Any]] = []
    evals: list[Evaluations] = []
    problems: list[str] = []
    for folder in folders(root):
        try:
            run = read_placed(folder)
        except NotARun as error:
            problems.append(str(error))
            continue
        if not selection.takes(run):
            continue
        row = _run_row(run, folder)
        runs.append(row)
        table = folder / "evals.csv"
        columns: Mapping[str, Sequence[float]] = {}
        try:
            columns = csv_rows.columns(table, ("step", "mean", "seconds", "success"))
        except csv_rows.Unreadable as error:
            problems.append(str(error))
        if wrong := [step for step in columns.get("step", ()) if _is_no_step(step)]:
            problems.append(f"{table}: {len(wrong)} row{'s' * (len(wrong) > 1)} at what is no step, such as {wrong[0]}")
        evals.append(_evaluations(row, columns))
    selection.check(root)
    frame = pd.DataFrame(runs, columns=RUN_COLUMNS)
    return Results(frame, _eval_frame(frame, evals), problems)


def _run_row(run: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    return {
        "suite": run["suite"]["name"],
        "task": run["task"]["name"],
        "algo": run["algo"]["label"],
        "config_id": run["config_id"],
        "seed": int(run["seed"]),
        "status": status_now(folder, run),
        "steps": run["protocol"]["steps"],
        "every": run["protocol"]["every"],
        "low": run["task"]["low"],
        "high": run["task"]["high"],
        "comparable": run["suite"]["comparable"],
        "note": run["suite"]["note"],
        "tasks": run["suite"]["tasks"],
        "suite_steps": run["suite"]["steps"],
        "error": run.get("error") or "",
        "folder": str(folder),
        "software": _software(run),
        "action_repeat": run["task"]["action_repeat"],
        "episodes": run["protocol"]["episodes"],
        **{name: _version(run, name) for name in ("mujoco", "dm_control")},
        **_computed(run),
        "auto": run.get("auto") or 0,  # seeds were added until a comparison was decided, or there were so many
        "published": "published" in run,  # by others, and imported
        "origin": run.get("published", {}).get("format", ""),
    }


def _version(run: Mapping[str, Any], name: str) -> str:
    """The version of a library that a run used; empty for one that has not begun or had none."""
    versions = run.get("versions")
    return str(versions.get(name) or "") if isinstance(versions, dict) else ""


def _computed(run: Mapping[str, Any]) -> dict[str, str]:
    """Where a run was trained at last and in which precision; empty for one that has not begun."""
    if not isinstance(run.get("versions"), dict):
        return {"device": "", "precision": ""}
    # Records from before there was a choice name no precision.
    return {"device": str(run.get("device") or ""), "precision": str(run.get("precision") or "float32")}


def _software(run: Mapping[str, Any]) -> tuple[str, ...]:
    """What the numbers of a run depend on in addition to its config, one text for each training segment.

    Segments that do not differ from the one before are left out. Empty for a run that has not begun.
    """
    resumed = run.get("resumed")
    stretches = [run.get("began"), *(resumed if isinstance(resumed, list) else []), run]
    known = [each for each in stretches if isinstance(each, dict) and isinstance(each.get("versions"), dict)]
    return tuple(text for text, _ in groupby(map(_stretch, known)))


def _stretch(run: Mapping[str, Any]) -> str:
    """What one stretch of training was done with."""
    parts = [f"{name} {version}" for name, version in run["versions"].items() if version and name != "python"]
    where, threads, precision = f"on {run.get('device')}", run.get("threads"), run.get("precision", "float32")
    if isinstance(threads, int):
        where += f" with {threads} thread{'s' * (threads != 1)}"
    return ", ".join([*parts, where if precision == "float32" else f"{where} in {precision}"])


Evaluations = dict[str, "NDArray[np.float64]"]  # columns of one length, named as EVAL_NUMBERS


def _evaluations(run: Mapping[str, Any], columns: Mapping[str, Sequence[float]]) -> Evaluations:
    """The evaluations of one run by their steps, of each the last; seconds and success are NaN where nobody counted."""
    import numpy as np

    if not {"step", "mean"} <= columns.keys():
        return dict.fromkeys(EVAL_NUMBERS, np.empty(0))
    step, mean = np.array(columns["step"]), np.array(columns["mean"])
    nowhere = np.full(len(step), np.nan)
    seconds, success = (np.array(columns.get(name, nowhere)) for name in ("seconds", "success"))
    score = suites.Score(run["low"], run["high"]).normalise(mean)
    there = np.flatnonzero([not (math.isnan(each) or _is_no_step(each)) for each in columns["step"]])[::-1]
    there = there[np.unique(step[there], return_index=True)[1]]
    found = zip(EVAL_NUMBERS, (step, mean, score, seconds, success), strict=True)
    return {name: column[there] for name, column in found}


def _is_no_step(number: float) -> bool:
    """Whether a number cannot be a step; a word, which is NaN, is what a disk left of a line."""
    return not (math.isnan(number) or (0 <= number <= csv_rows.LARGEST and number.is_integer()))


def _eval_frame(runs: pd.DataFrame, evals: Sequence[Evaluations]) -> pd.DataFrame:
    """The evaluations of all runs, one for each row of `runs`, in one frame made at once."""
    import numpy as np

    frame = runs[EVAL_KEYS].loc[np.repeat(runs.index, [len(own["step"]) for own in evals])].reset_index(drop=True)
    for name in EVAL_NUMBERS:
        frame[name] = np.concatenate([own[name] for own in evals] or [np.empty(0)])
    return frame.astype({"step": int})
