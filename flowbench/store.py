"""The results folder: `<suite>/<task>/<algo>/<variant>/seed-<k>/{run.json, evals.csv, train.csv, log.txt}`.

A run.json is replaced whole or not at all; rows of the CSV files are appended and flushed as they come, so what a
killed run leaves behind is readable up to its last whole line.
"""

from __future__ import annotations

import dataclasses
import glob
import json
import math
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import suites
from flowbench import disk, lock, rows
from flowbench.errors import UsageError, unknown
from flowbench.plan import Cell, task_folder

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

SCHEMA = 1
STATUSES = ("done", "running", "stopped", "failed", "queued")
NUMBER = (int, float)
SHAPE: dict[str, Any] = {  # what readers rely on in a run.json
    "status": str,
    "suite.name": str,
    "suite.title": str,
    "suite.comparable": bool,
    "suite.note": str,
    "suite.tasks": int,
    "suite.steps": int,
    "task.name": str,
    "task.source": str,
    "task.action_repeat": int,
    "task.low": NUMBER,
    "task.high": NUMBER,
    "algo.name": str,
    "algo.label": str,
    "algo.target": str,
    "config_id": str,
    "config": dict,
    "protocol.steps": int,
    "protocol.every": int,
    "protocol.episodes": int,
    "seed": int,
}
OPTIONAL: dict[str, Any] = {"error": (str, type(None)), "auto": (int, type(None)), "published": dict}


class NotARun(ValueError):
    """A folder that looks like a run's but cannot be read as one; the message says why."""


def now() -> str:
    """The time, in UTC, to the second, as ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def record(cell: Cell, group: Sequence[int]) -> dict[str, Any]:
    """The run.json of a cell that is about to train, with the seeds that train beside it."""
    variant = cell.variant
    return {
        "schema": SCHEMA,
        "status": "queued",
        **setting(cell.suite, cell.task),
        "algo": {
            "name": variant.entry.name,
            "label": variant.label,
            "target": variant.entry.target,
            "sha256": variant.source,
        },
        "config_id": variant.config_id,
        "config": dataclasses.asdict(variant.config),
        "protocol": dataclasses.asdict(variant.protocol),
        "seed": cell.seed,
        "group": list(group),
    }


def setting(suite: suites.Suite, task: suites.Task) -> dict[str, Any]:
    """What a run.json says of the suite and the task."""
    return {
        "suite": {
            "name": suite.name,
            "title": suite.title,
            "comparable": suite.comparable,
            "note": suite.note,
            "tasks": len(suite.tasks),
            "steps": suite.steps,
        },
        "task": {
            "name": task.name,
            "source": task.source,
            "action_repeat": task.action_repeat,
            "low": task.score.low,
            "high": task.score.high,
        },
    }


def task(run: Mapping[str, Any]) -> suites.Task:
    """The task of a record."""
    of = run["task"]
    return suites.Task(of["name"], of["source"], of["action_repeat"], suites.Score(of["low"], of["high"]))


def write_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Replace the folder's run.json in one step, so that it is whole whenever the machine stops."""
    folder.mkdir(parents=True, exist_ok=True)
    disk.replace(folder / "run.json", _text(run))


def begin_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Write the folder's run.json where it has none, whoever else may be about to."""
    folder.mkdir(parents=True, exist_ok=True)
    disk.create(folder / "run.json", _text(run))


def _text(run: Mapping[str, Any]) -> bytes:
    return (json.dumps(run, indent=2, allow_nan=False) + "\n").encode()


def read_run(folder: Path) -> dict[str, Any]:
    """The folder's run.json. Raises NotARun when it is missing, unreadable or of another schema."""
    path = folder / "run.json"
    try:
        text = path.read_text(encoding="utf-8")
        run = json.loads(text)
        if "\\ud" in text.lower():  # maybe half a character, as an error has that names a file in another encoding
            run = json.loads(json.dumps(run, ensure_ascii=False).encode(errors="replace"))
    except (OSError, ValueError, RecursionError) as error:
        raise NotARun(f"{path}: {error}") from error
    check(run, path)
    return dict(run)


def check(run: Any, path: Path) -> None:
    """Raise NotARun, naming `path`, unless a record is of this schema and has what readers rely on."""
    if not isinstance(run, dict) or "schema" not in run:
        raise NotARun(f"{path}: not a run of flowbench")
    if run["schema"] != SCHEMA:
        raise NotARun(f"{path}: schema {run['schema']!r}; this flowbench reads schema {SCHEMA}")
    for key, kind in SHAPE.items():
        value: Any = run
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool) or _is_absurd(value):
            raise NotARun(f"{path}: {key} is {reprlib.repr(value)}")
    try:
        task(run)
    except suites.SuiteError as error:
        raise NotARun(f"{path}: {error}") from error
    for key, kind in OPTIONAL.items():
        if key in run and (not isinstance(run[key], kind) or _is_absurd(run[key])):
            raise NotARun(f"{path}: {key} is {reprlib.repr(run[key])}")
    if run["status"] not in STATUSES:
        raise NotARun(f"{path}: unknown status {run['status']!r}")


def _is_absurd(value: Any) -> bool:
    """Whether a whole number is so large that tables and floats cannot hold it."""
    return isinstance(value, int) and abs(value) > rows.LARGEST


def recorded(folder: Path) -> dict[str, Any]:
    """The folder's run.json, or nothing when there is none that can be read."""
    try:
        return read_run(folder)
    except NotARun:
        return {}


def status(folder: Path) -> str:
    """One of `STATUSES`, or "missing". "stopped" is a run that was started and ended without a word."""
    if not (folder / "run.json").exists():
        return "missing"
    return status_now(folder, read_run(folder))


def status_now(folder: Path, run: Mapping[str, Any]) -> str:
    """What `status` says of a folder whose record was read before."""
    recorded: str = run["status"]
    if recorded not in ("running", "queued"):
        return recorded
    if lock.is_held(folder):
        return "running"
    return "queued" if recorded == "queued" else "stopped"


def is_of(run: Mapping[str, Any], cell: Cell) -> bool:
    """Whether a record is that of a cell."""
    recorded = (run["suite"]["name"], run["task"]["name"], run["config_id"], run["seed"])
    return recorded == (cell.suite.name, cell.task.name, cell.variant.config_id, cell.seed)


def check_same_task(root: Path, cell: Cell) -> None:
    """Raise UsageError when this suite's task was run from another source or with another action repeat."""
    for folder in sorted((root / cell.path).parents[2].glob("*/*/seed-*")):
        try:
            task = read_run(folder)["task"]
        except NotARun:
            continue
        for key in ("source", "action_repeat"):
            if task[key] != getattr(cell.task, key):
                raise UsageError(
                    f"suite {cell.suite.name!r}, task {cell.task.name!r}: {key} is {getattr(cell.task, key)!r} now, "
                    f"and was {task[key]!r} in {folder}; give the changed suite another name or use another --results"
                )


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


def folders(root: Path) -> Iterator[Path]:
    """Every folder below `root` that is laid out as a run's; folders may come and go meanwhile."""
    # The method of Path raises when a folder vanishes while it looks.
    for path in sorted(root / found for found in glob.glob("*/*/*/*/seed-*/run.json", root_dir=root)):
        if re.fullmatch(r"seed-\d+", path.parent.name):
            yield path.parent


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


def load(root: Path, suite_names: Sequence[str] = (), algo_names: Sequence[str] = ()) -> Results:
    """Read every run below `root`, or those of the named suites and algorithms (by name or label).

    Raises UsageError when the folder does not exist or a name selects nothing.
    """
    return read(root, Selection(suite_names, algo_names))


def read(root: Path, selection: Selection | Exactly) -> Results:
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
            columns = rows.columns(table, ("step", "mean", "seconds", "success"))
        except rows.Unreadable as error:
            problems.append(str(error))
        if wrong := [step for step in columns.get("step", ()) if _is_no_step(step)]:
            problems.append(f"{table}: {len(wrong)} row{'s' * (len(wrong) > 1)} at what is no step, such as {wrong[0]}")
        evals.append(_evaluations(row, columns))
    selection.check(root)
    frame = pd.DataFrame(runs, columns=RUN_COLUMNS)
    return Results(frame, _eval_frame(frame, evals), problems)


def read_placed(folder: Path) -> dict[str, Any]:
    """`read_run` of a folder below a results folder. Raises NotARun also when the record belongs elsewhere."""
    run = read_run(folder)
    _check_place(folder, run)
    return run


def _check_place(folder: Path, run: Mapping[str, Any]) -> None:
    """A record in a folder that is not its own, such as a copy, must not count as a run of its own."""
    suite, task, algo, variant, seed = folder.parts[-5:]
    own = (run["suite"]["name"], task_folder(run["task"]["name"]), run["algo"]["name"], f"seed-{run['seed']}")
    if (suite, task, algo, seed) != own or not variant.endswith(f"-{run['config_id']}"):
        where = "/".join(folder.parts[-5:])
        raise NotARun(f"{folder / 'run.json'}: the record of {'/'.join(own)} ({run['config_id']}) lies in {where}")


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


def _software(run: Mapping[str, Any]) -> str:
    """What a run's numbers depend on beside its config, in a line; empty for one that has not begun.

    Of a run that went on with something else it is what it had at first, and then.
    """
    resumed = run.get("resumed")
    stretches = [run.get("began"), *(resumed if isinstance(resumed, list) else []), run]
    known = [each for each in stretches if isinstance(each, dict) and isinstance(each.get("versions"), dict)]
    return THEN.join(text for text, _ in groupby(map(_stretch, known)))


def _stretch(run: Mapping[str, Any]) -> str:
    """What one stretch of training was done with."""
    parts = [f"{name} {version}" for name, version in run["versions"].items() if version and name != "python"]
    where, threads, precision = f"on {run.get('device')}", run.get("threads"), run.get("precision", "float32")
    if isinstance(threads, int):
        where += f" with {threads} thread{'s' * (threads != 1)}"
    return ", ".join([*parts, where if precision == "float32" else f"{where} in {precision}"])


THEN = "; then "  # between what a run was trained with at first and what it went on with
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
    return not (math.isnan(number) or (0 <= number <= rows.LARGEST and number.is_integer()))


def _eval_frame(runs: pd.DataFrame, evals: Sequence[Evaluations]) -> pd.DataFrame:
    """The evaluations of all runs, one for each row of `runs`, in one frame made at once."""
    import numpy as np

    frame = runs[EVAL_KEYS].loc[np.repeat(runs.index, [len(own["step"]) for own in evals])].reset_index(drop=True)
    for name in EVAL_NUMBERS:
        frame[name] = np.concatenate([own[name] for own in evals] or [np.empty(0)])
    return frame.astype({"step": int})
