"""Stores published curves as runs in the results folder: `flowbench import`."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import suites
from flowbench.common.errors import UsageError, one_of
from flowbench.common.text_table import plural
from flowbench.interop import match
from flowbench.interop.curve import Curve, Source, gather
from flowbench.plan.cells import task_folder
from flowbench.store import records
from flowbench.store.csv_rows import RowWriter
from flowbench.store.records import AlgoInfo, ProtocolInfo, Published, RunRecord, SuiteInfo, TaskInfo

FORMATS = {"tdmpc2": "tdmpc2", "simbav2": "simbav2", "humanoidbench": "humanoidbench", "csv": "plain"}
PREFIX = "published-"  # default prefix of an imported algorithm's name
ROBOT = {"humanoidbench": "h1-"}  # prefix of task names that a format omits


@dataclass(frozen=True)
class Run:
    """A run to be stored: its run.json, and its returns by the suite's steps."""

    record: RunRecord
    points: dict[int, float]


@dataclass(frozen=True)
class Imported:
    """The result of an import."""

    runs: dict[Path, Run]  # by folder
    left_out: list[str]  # what was not imported, a line each
    removed: list[Path]  # folders of runs that the new version of a file no longer has


def import_curves(
    format: str, path: Path, root: Path, *, prefix: str = PREFIX, suite: str | None = None, replace: bool = False
) -> Imported:
    """Import a file, or every file of the format below a folder. All files are read before any run is written.

    Runs from an earlier version of a file that the file no longer has are removed. With `replace`, another file that
    the same curves were imported from counts as an earlier version.
    Raises UsageError for a file that cannot be read, for curves that were imported from another file before, and if a
    folder cannot be written; SuiteError for an unknown suite.
    """
    reader = import_module(f"flowbench.interop.{FORMATS[one_of('format', format, FORMATS)]}")
    sources = [gather(file, reader.read(file)) for file in _files(path, reader.SUFFIX)]
    candidates = match.candidates(suite)
    robot = ROBOT.get(format, "")
    left_out = [
        f"{source.path}: {plural(source.replaced, 'value')} replaced by a later line at the same step"
        for source in sources
        if source.replaced
    ]
    unknown_tasks: Counter[str] = Counter()
    runs: dict[Path, Run] = {}
    for source in sources:
        for curve in source.curves:
            found = match.find(curve.task, candidates, robot if suite else "")
            if not found:
                unknown_tasks[curve.task] += 1
            for of_suite, task in found:
                points = _by_suite_step(curve, task.action_repeat)
                record = _record(curve, list(points), source, of_suite, task, format, prefix)
                folder = root / _folder(record)
                if folder in runs:
                    raise _duplicate(record, runs[folder].record)
                runs[folder] = Run(record, points)
    left_out += [_unknown_task(name, count, candidates, robot, suite) for name, count in unknown_tasks.items()]
    # A file that yields no run is not a new version: its earlier runs stay.
    versions = {_file(_published(run.record)) for run in runs.values()} | _replaced(runs, replace)
    earlier = _earlier(root, format, prefix, [each.name for each in candidates])
    removed = [folder for folder, file in earlier if file in versions and folder not in runs]
    for folder in removed:
        _remove(folder, root)
    for folder, each in runs.items():
        _write(folder, each)
    return Imported(runs, left_out, removed)


def _unknown_task(name: str, count: int, candidates: Sequence[suites.Suite], robot: str, suite: str | None) -> str:
    """The message on a task that no suite has."""
    curves = f"task {name!r} ({plural(count, 'curve')})"
    if robot and not suite and (found := match.find(name, candidates, robot)):
        return f"{curves}: may be of another robot; if it is {found[0][1].name!r}, use --suite {found[0][0].name}"
    where = ", ".join(each.name for each in candidates)
    return f"{curves}: no task of that name in {where}; the nearest is {match.nearest(name, candidates)!r}"


def _files(path: Path, suffix: str) -> list[Path]:
    if path.is_dir():
        found = sorted(file for file in path.rglob(f"*{suffix}") if file.is_file())
        if not found:
            raise UsageError(f"{path}: no {suffix} file below this folder")
        return found
    if not path.exists():
        raise UsageError(f"there is no file or folder {str(path)!r}")
    return [path]


def _record(
    curve: Curve, steps: Sequence[int], source: Source, suite: suites.Suite, task: suites.Task, format: str, prefix: str
) -> RunRecord:
    """The record of a curve with evaluations at these steps of the suite."""
    name = task_folder(f"{prefix}{curve.algo}")
    if name.startswith("."):
        raise UsageError(f"{source.path}: an algorithm cannot be named {name!r}; add a prefix with --algo-prefix")
    identity = json.dumps(["published", format, name])
    gaps = [after - before for before, after in pairwise(steps)]
    label = " ".join(f"{prefix}{curve.algo}".removeprefix(PREFIX).split())
    return RunRecord(
        status="done",
        suite=SuiteInfo.of(suite),
        task=TaskInfo.of(task),
        algo=AlgoInfo(name, f"{label} (published)", "published"),
        config_id=hashlib.sha256(identity.encode()).hexdigest()[:8],
        config={},
        # The file does not say over how many episodes a return is averaged.
        protocol=ProtocolInfo(steps[-1], statistics.mode(gaps) if gaps else 1, 0),
        seed=curve.seed,
        published=Published(
            format=format,
            file=str(source.path.resolve()),
            sha256=source.sha256,
            algo=curve.algo,
            task=curve.task,
            step_unit="simulator steps",
            simulator_steps_per_step=task.action_repeat,
        ),
    )


def _by_suite_step(curve: Curve, action_repeat: int) -> dict[int, float]:
    """The curve's returns by the suite's steps, rounded up."""
    return {-(-step // action_repeat): value for step, value in curve.points.items()}


def _published(record: RunRecord) -> Published:
    """Where an imported run comes from."""
    assert record.published is not None
    return record.published


def _folder(record: RunRecord) -> Path:
    """A run's folder below the results folder. Its variant part differs from those of our own runs."""
    variant = f"{_published(record).format}-{record.config_id}"
    parts = record.suite.name, task_folder(record.task.name), record.algo.name, variant
    return Path(*parts, f"seed-{record.seed}")


def _duplicate(record: RunRecord, before: RunRecord) -> UsageError:
    """The error for two curves that would be the same run."""
    return UsageError(
        f"{_published(record).file}: {_spelled(record)} would be the same run as {_spelled(before)} in "
        f"{_published(before).file}; remove one of them, or import the files with different --algo-prefix"
    )


def _spelled(record: RunRecord) -> str:
    """A curve's names, spelled as in its file."""
    published = _published(record)
    return f"{published.algo}, {published.task}, seed {record.seed}"


def _replaced(runs: Mapping[Path, Run], replace: bool) -> set[Path]:
    """The other files from which these runs were imported before.

    Raises UsageError if there is one without `replace`, or if a run was trained and not imported.
    """
    files = set()
    for folder, run in runs.items():
        if not (folder / "run.json").exists():
            continue
        earlier, published = records.read_if_valid(folder), _published(run.record)
        before = earlier.published if earlier else None
        if not before:
            raise UsageError(f"{folder} was not imported; use another --results")
        if published.sha256 == before.sha256 or published.file == str(_file(before)):
            continue
        if not replace:
            raise UsageError(
                f"{published.file}: {_spelled(run.record)} was imported from {before.file} before; give one "
                "of them another --algo-prefix, or replace the earlier one with --replace"
            )
        files.add(_file(before))
    return files


def _earlier(root: Path, format: str, prefix: str, suite_names: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """Every run that the same command has imported before, with the file that it came from."""
    for folder in records.folders(root):
        if folder.parts[-5] in suite_names and folder.parent.name.startswith(f"{format}-"):
            record = records.read_if_valid(folder)
            published = record.published if record else None
            if record and published and record.algo.name == task_folder(f"{prefix}{published.algo}"):
                yield folder, _file(published)


def _file(published: Published) -> Path:
    """The file that a run came from, as an absolute path without links."""
    return Path(published.file).resolve()


def _remove(folder: Path, root: Path) -> None:
    """Remove a run and then the empty folders. The record is removed first: a folder without it is not a run."""
    try:
        for name in ("run.json", "evals.csv"):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be removed: {error.strerror}") from error
    with suppress(OSError):  # the folder has other files
        while folder != root:
            folder.rmdir()
            folder = folder.parent


def _write(folder: Path, run: Run) -> None:
    """Write a run. The record is written last: a folder without it is not a run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writer = RowWriter(folder / "evals.csv", ["step", "mean"])
        for step, value in run.points.items():
            writer.append({"step": step, "mean": value})
        writer.close()
        records.write_run(folder, run.record)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from error


def summary(imported: Imported) -> list[list[str]]:
    """For each suite and algorithm: the names, the numbers of tasks and curves, and the last step."""
    lines: dict[tuple[str, str], list[Run]] = {}
    for each in imported.runs.values():
        lines.setdefault((each.record.suite.name, each.record.algo.name), []).append(each)
    found = []
    for (suite, algo), own in sorted(lines.items()):
        tasks = {each.record.task.name for each in own}
        last = max(each.record.protocol.steps for each in own)
        found.append([algo, suite, f"{len(tasks)}", f"{len(own)}", f"{last:,}"])
    return found
