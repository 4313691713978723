"""Reads the runs of a results folder into two DataFrames."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import suites
from flowbench.common.errors import UsageError, unknown
from flowbench.plan import overrides
from flowbench.plan.cells import Cell
from flowbench.store import csv_rows
from flowbench.store.records import NotARun, RunRecord, Segment, folders, read_placed, status_now

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Results:
    """The content of a results folder."""

    runs: pd.DataFrame  # one row per run
    evals: pd.DataFrame  # one row per evaluation of a run
    problems: list[str]  # folders that look like runs but cannot be read, one line each


RUN_COLUMNS = [
    "suite", "task", "algo", "config_id", "seed", "status", "steps", "every", "low", "high", "comparable", "note",
    "tasks", "suite_steps", "error", "folder", "software", "action_repeat", "episodes", "mujoco", "dm_control",
    "device", "precision", "auto", "published", "origin", "name", "config", "settings", "env_args",
    "code",
]  # fmt: skip


EVAL_KEYS = ["suite", "task", "algo", "config_id", "seed", "published"]


EVAL_NUMBERS = ["step", "mean", "score", "seconds", "success"]


def check_root(root: Path) -> None:
    """Raise UsageError if there is no results folder."""
    if not root.is_dir():
        raise UsageError(
            f"there is no results folder {str(root)!r}; flowbench run creates it; or name another with --results"
        )


def selects(text: str, name: str, label: str, config_id: str, config: Mapping[str, Any]) -> bool:
    """Whether a text means a run with this algorithm, label and configuration.

    It is the name of the algorithm, its label in reports, or what `flowbench run --algo` accepts for this variant:
    values that the suite sets already may be repeated, and `name[]` is the variant without values of its own.
    """
    if text in (label, f"{label}#{config_id}"):
        return True
    head, bracket, _ = text.partition("[")
    wanted = head.rpartition(":")[2].lower() if ".py:" in head else head
    if wanted != name or not bracket:
        return wanted == name
    try:
        given, own = (overrides.parse_variant(each)[1] for each in (text, label))
    except UsageError:
        return False
    # `steps` in a label is no hyperparameter: the run is shorter than the suite says.
    return own.keys() - {"steps"} <= given.keys() and all(
        key in config and overrides.equals(config[key], value) for key, value in given.items()
    )


class Selection:
    """The runs of the named suites and algorithms (in the words of `selects`), or all."""

    def __init__(self, suite_names: Sequence[str], algo_names: Sequence[str]) -> None:
        self._suites, self._algos = list(suite_names), list(algo_names)
        self._found: set[tuple[str, str]] = set()  # names that have selected a run
        self._seen: dict[str, set[str]] = {"suite": set(), "algorithm": set()}

    def accepts(self, run: RunRecord) -> bool:
        """Whether a record belongs to a selected run."""
        suite, algo = run.suite.name, run.algo
        self._seen["suite"].add(suite)
        if self._suites and suite not in self._suites:
            return False
        self._found.add(("suite", suite))
        self._seen["algorithm"] |= {algo.name, algo.label}
        texts = [text for text in self._algos if selects(text, algo.name, algo.label, run.config_id, run.config)]
        self._found |= {("algorithm", text) for text in texts}
        return bool(texts) or not self._algos

    def check(self, root: Path) -> None:
        """Raise UsageError if a name has selected none of the runs below `root`."""
        for kind, wanted in (("suite", self._suites), ("algorithm", self._algos)):
            for name in wanted:
                if (kind, name) not in self._found:
                    raise UsageError(f"{root}: {unknown(f'{kind} in these results', name, sorted(self._seen[kind]))}")


class Exactly:
    """The runs of these cells, and published runs of these algorithms (named as in their files) on the same tasks."""

    def __init__(self, cells: Sequence[Cell], published: Sequence[str] = ()) -> None:
        # The label too: after a suite's defaults have changed, one configuration has two labels and two folders.
        self._cells = {(*_task(cell), cell.variant.label, cell.variant.config_id, cell.seed) for cell in cells}
        self._tasks = {_task(cell) for cell in cells}
        self._published = set(published)

    def accepts(self, run: RunRecord) -> bool:
        """Whether a record belongs to a selected run."""
        task = run.suite.name, run.task.name
        if run.published:
            return task in self._tasks and run.published.algo in self._published
        return (*task, run.algo.label, run.config_id, run.seed) in self._cells

    def check(self, root: Path) -> None:
        """A cell without a run is not an error."""


def _task(cell: Cell) -> tuple[str, str]:
    return cell.suite.name, cell.task.name


def load_results(root: Path, suite_names: Sequence[str] = (), algo_names: Sequence[str] = ()) -> Results:
    """Read every run below `root`, or those of the named suites and algorithms (by name or label).

    Raises UsageError if the folder does not exist or a name selects nothing.
    """
    return load_selected(root, Selection(suite_names, algo_names))


def load_selected(root: Path, selection: Selection | Exactly) -> Results:
    """Read the selected runs below `root`. Raises UsageError as `load_results` does."""
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
        if not selection.accepts(run):
            continue
        row = _run_row(run, folder)
        runs.append(row)
        table = folder / "evals.csv"
        columns: Mapping[str, Sequence[float]] = {}
        try:
            columns = csv_rows.columns(table, ("step", "mean", "seconds", "success"))
        except csv_rows.Unreadable as error:
            problems.append(str(error))
        if wrong := [step for step in columns.get("step", ()) if _is_invalid_step(step)]:
            problems.append(
                f"{table}: {len(wrong)} row{'s' * (len(wrong) > 1)} with an invalid step, such as {wrong[0]}"
            )
        evals.append(_evaluations(row, columns))
    selection.check(root)
    frame = pd.DataFrame(runs, columns=RUN_COLUMNS)
    return Results(frame, _eval_frame(frame, evals), problems)


def _run_row(run: RunRecord, folder: Path) -> dict[str, Any]:
    versions = run.versions or {}
    return {
        "suite": run.suite.name,
        "task": run.task.name,
        "algo": run.algo.label,
        "config_id": run.config_id,
        "seed": run.seed,
        "status": status_now(folder, run),
        "steps": run.protocol.steps,
        "every": run.protocol.every,
        "low": run.task.low,
        "high": run.task.high,
        "comparable": run.suite.comparable,
        "note": run.suite.note,
        "tasks": run.suite.tasks,
        "suite_steps": run.suite.steps,
        "error": run.error or "",
        "folder": str(folder),
        "software": _software(run),
        "action_repeat": run.task.action_repeat,
        "episodes": run.protocol.episodes,
        "mujoco": versions.get("mujoco") or "",
        "dm_control": versions.get("dm_control") or "",
        # Empty until the run has trained. Records of early versions have no precision, which was float32.
        "device": (run.device or "") if versions else "",
        "precision": (run.precision or "float32") if versions else "",
        "auto": run.auto or 0,
        "published": run.published is not None,
        "origin": run.published.format if run.published else "",
        "name": run.algo.name,
        "config": run.config,
        "settings": _settings(run),
        "env_args": json.dumps(run.task.env_args, sort_keys=True),
        "code": "; then ".join(code for code, _ in groupby(each.code for each in _segments(run)) if code),
    }


def _settings(run: RunRecord) -> dict[str, Any] | None:
    """What the suite sets to other values than the defaults; None if unknown.

    Records of early versions do not have it: of a shipped suite, what it sets now, where the run has this value.
    """
    if run.published or run.algo.overrides is not None:
        return run.algo.overrides
    now = _shipped_overrides(run.suite.name).get(run.algo.name, {})
    return {k: run.config[k] for k, v in now.items() if k in run.config and overrides.equals(run.config[k], str(v))}


@lru_cache
def _shipped_overrides(suite: str) -> Mapping[str, Mapping[str, Any]]:
    return suites.load(suite, check_tasks=False).overrides if suite in suites.names() else {}


def _software(run: RunRecord) -> tuple[str, ...]:
    """What a run's numbers depend on in addition to its config, for each training segment; empty until it trains.

    Segments that do not differ from the one before are left out.
    """
    return tuple(text for text, _ in groupby(_segment_text(each) for each in _segments(run) if each.versions))


def _segments(run: RunRecord) -> list[Segment]:
    return [run.began or Segment(), *(run.resumed or []), run.segment()]


def _segment_text(segment: Segment) -> str:
    """The software and hardware of one training segment."""
    versions = segment.versions or {}
    parts = [f"{name} {version}" for name, version in versions.items() if version and name != "python"]
    where = f"on {segment.device}"
    if segment.threads is not None:
        where += f" with {segment.threads} thread{'s' * (segment.threads != 1)}"
    precision = segment.precision or "float32"
    return ", ".join([*parts, where if precision == "float32" else f"{where} in {precision}"])


Evaluations = dict[str, "NDArray[np.float64]"]  # columns of equal length, named as in EVAL_NUMBERS


def _evaluations(run: Mapping[str, Any], columns: Mapping[str, Sequence[float]]) -> Evaluations:
    """The evaluations of one run, the last of each step; seconds and success are NaN if not recorded."""
    import numpy as np

    if not {"step", "mean"} <= columns.keys():
        return dict.fromkeys(EVAL_NUMBERS, np.empty(0))
    step, mean = np.array(columns["step"]), np.array(columns["mean"])
    nowhere = np.full(len(step), np.nan)
    seconds, success = (np.array(columns.get(name, nowhere)) for name in ("seconds", "success"))
    score = suites.Score(run["low"], run["high"]).normalise(mean)
    there = np.flatnonzero([not (math.isnan(each) or _is_invalid_step(each)) for each in columns["step"]])[::-1]
    there = there[np.unique(step[there], return_index=True)[1]]
    found = zip(EVAL_NUMBERS, (step, mean, score, seconds, success), strict=True)
    return {name: column[there] for name, column in found}


def _is_invalid_step(number: float) -> bool:
    """Whether a number cannot be a step. Text, read as NaN, is what a disk error left of a line."""
    return not (math.isnan(number) or (0 <= number <= csv_rows.LARGEST and number.is_integer()))


def _eval_frame(runs: pd.DataFrame, evals: Sequence[Evaluations]) -> pd.DataFrame:
    """The evaluations of all runs in one frame; `evals` has one entry for each row of `runs`."""
    import numpy as np

    frame = runs[EVAL_KEYS].loc[np.repeat(runs.index, [len(own["step"]) for own in evals])].reset_index(drop=True)
    for name in EVAL_NUMBERS:
        frame[name] = np.concatenate([own[name] for own in evals] or [np.empty(0)])
    return frame.astype({"step": int})
