"""The results folder: `<suite>/<task>/<algo>/<variant>/seed-<k>/{run.json, evals.csv, train.csv, log.txt}`.

A run.json is replaced whole or not at all; rows of the CSV files are appended and flushed as they come, so what a
killed run leaves behind is readable up to its last whole line.
"""

from __future__ import annotations

import dataclasses
import glob
import json
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import suites
from flowbench.common.errors import UsageError
from flowbench.plan.cells import Cell, task_folder
from flowbench.store import atomic, csv_rows, lock

if TYPE_CHECKING:
    pass

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
    atomic.replace(folder / "run.json", _text(run))


def begin_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Write the folder's run.json where it has none, whoever else may be about to."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic.create(folder / "run.json", _text(run))


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
    return isinstance(value, int) and abs(value) > csv_rows.LARGEST


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


def folders(root: Path) -> Iterator[Path]:
    """Every folder below `root` that is laid out as a run's; folders may come and go meanwhile."""
    # The method of Path raises when a folder vanishes while it looks.
    for path in sorted(root / found for found in glob.glob("*/*/*/*/seed-*/run.json", root_dir=root)):
        if re.fullmatch(r"seed-\d+", path.parent.name):
            yield path.parent


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
