"""What `flowbench import` does: curves from files become runs in the results folder, marked `published`."""

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
from flowbench.interop import match
from flowbench.interop.curve import Curve, Source, gather
from flowbench.plan.cells import task_folder
from flowbench.store import records
from flowbench.store.csv_rows import RowWriter
from flowbench.store.records import AlgoInfo, ProtocolInfo, Published, RunRecord, SuiteInfo, TaskInfo

FORMATS = {"tdmpc2": "tdmpc2", "simbav2": "simbav2", "humanoidbench": "humanoidbench", "csv": "plain"}
PREFIX = "published-"  # of an imported algorithm's name, unless another is asked for
ROBOT = {"humanoidbench": "h1-"}  # what the names of a format leave out


@dataclass(frozen=True)
class Run:
    """A run to be: its run.json, and its returns by the suite's own step."""

    record: RunRecord
    points: dict[int, float]


@dataclass(frozen=True)
class Imported:
    """Runs by their folders, what could not be imported or was passed over, a line each, and folders that are gone."""

    runs: dict[Path, Run]
    left_out: list[str]
    removed: list[Path]


def run(
    format: str, path: Path, root: Path, *, prefix: str = PREFIX, suite: str | None = None, replace: bool = False
) -> Imported:
    """Import a file, or every file of the format below a folder; files are all read before a run is written.

    What an earlier version of a file held and this one does not is removed. With `replace` a file that the same curves
    came from before counts as an earlier version. Raises UsageError for a file that cannot be read, for curves that
    were imported from another file before, and where a folder cannot be written; SuiteError for a suite that is not
    known.
    """
    reader = import_module(f"flowbench.interop.{FORMATS[one_of('format', format, FORMATS)]}")
    sources = [gather(file, reader.read(file)) for file in _files(path, reader.SUFFIX)]
    among = match.candidates(suite)
    robot = ROBOT.get(format, "")
    left_out = [
        f"{source.path}: {source.replaced} value{'s' * (source.replaced != 1)} at a step that a later line gives again"
        for source in sources
        if source.replaced
    ]
    missed: Counter[str] = Counter()
    runs: dict[Path, Run] = {}
    for source in sources:
        for curve in source.curves:
            found = match.find(curve.task, among, robot if suite else "")
            if not found:
                missed[curve.task] += 1
            for of_suite, task in found:
                points = _by_suite_step(curve, task.action_repeat)
                record = _record(curve, list(points), source, of_suite, task, format, prefix)
                folder = root / _place(record)
                if folder in runs:
                    raise _twice(record, runs[folder].record)
                runs[folder] = Run(record, points)
    left_out += [_missed(name, count, among, robot, suite) for name, count in missed.items()]
    # A file of which nothing is to be imported is no new version of anything.
    versions = {_file(_published(run.record)) for run in runs.values()} | _replaced(runs, replace)
    held = _held(root, format, prefix, [each.name for each in among])
    removed = [folder for folder, file in held if file in versions and folder not in runs]
    for folder in removed:
        _remove(folder, root)
    for folder, each in runs.items():
        _write(folder, each)
    return Imported(runs, left_out, removed)


def _missed(name: str, count: int, among: Sequence[suites.Suite], robot: str, suite: str | None) -> str:
    """The line on a task that was not found."""
    curves = f"task {name!r} ({count} curve{'s' * (count != 1)})"
    if robot and not suite and (found := match.find(name, among, robot)):
        return f"{curves}: may be of another robot; where it is {found[0][1].name!r}, say --suite {found[0][0].name}"
    where = ", ".join(each.name for each in among)
    return f"{curves}: no task of that name in {where}; the nearest is {match.nearest(name, among)!r}"


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
    curve: Curve,
    steps: Sequence[int],
    source: Source,
    suite: suites.Suite,
    task: suites.Task,
    format: str,
    prefix: str,
) -> RunRecord:
    """The record of a curve that was evaluated at these steps of the suite."""
    name = task_folder(f"{prefix}{curve.algo}")
    if name.startswith("."):
        raise UsageError(f"{source.path}: an algorithm cannot be called {name!r}; begin it with --algo-prefix")
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
        # From the file: how far the curve goes and how often it was evaluated. It does not say over how many episodes.
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
    """The curve's returns by steps as the suite counts them; amid such a step, by the one that it ends with."""
    return {-(-step // action_repeat): value for step, value in curve.points.items()}


def _published(record: RunRecord) -> Published:
    """Where an imported run comes from."""
    assert record.published is not None
    return record.published


def _place(record: RunRecord) -> Path:
    """Where a run is below the results folder: a variant's folder that no run of ours has."""
    variant = f"{_published(record).format}-{record.config_id}"
    parts = record.suite.name, task_folder(record.task.name), record.algo.name, variant
    return Path(*parts, f"seed-{record.seed}")


def _twice(record: RunRecord, before: RunRecord) -> UsageError:
    """The error for two curves that are one run here."""
    one, other = _published(before), _published(record)
    if one.file != other.file:
        return UsageError(
            f"{other.file}: {_spelled(record)} is in {one.file}, too; import one of them apart, with another "
            "--algo-prefix"
        )
    return UsageError(
        f"{other.file}: {_spelled(before)} and {_spelled(record)} are the same run, of {record.task.name} in "
        f"{record.suite.name}; take one of them out"
    )


def _spelled(record: RunRecord) -> str:
    """A curve as its file calls it."""
    published = _published(record)
    return f"{published.algo}, {published.task}, seed {record.seed}"


def _replaced(runs: Mapping[Path, Run], replace: bool) -> set[Path]:
    """The other files whose curves these runs replace.

    Raises UsageError if there is such a file though none is to be replaced, or a run that was trained.
    """
    files = set()
    for folder, run in runs.items():
        if not (folder / "run.json").exists():
            continue
        earlier, published = records.read_if_valid(folder), _published(run.record)
        before = earlier.published if earlier else None
        if not before:
            raise UsageError(f"{folder} is not one of an import; use another --results")
        if published.sha256 == before.sha256 or published.file == str(_file(before)):
            continue
        if not replace:
            raise UsageError(
                f"{published.file}: {_spelled(run.record)} has been imported from {before.file}; give one of "
                "them another --algo-prefix, or take this for a new version with --replace"
            )
        files.add(_file(before))
    return files


def _held(root: Path, format: str, prefix: str, suite_names: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """Every run that such an import has made before, with the file that it came from."""
    for folder in records.folders(root):
        if folder.parts[-5] in suite_names and folder.parent.name.startswith(f"{format}-"):
            record = records.read_if_valid(folder)
            published = record.published if record else None
            if record and published and record.algo.name == task_folder(f"{prefix}{published.algo}"):
                yield folder, _file(published)


def _file(published: Published) -> Path:
    """The file that a run came from, without links; early versions recorded it as the user wrote it."""
    return Path(published.file).resolve()


def _remove(folder: Path, root: Path) -> None:
    """Take away a run, and the folders that are then empty; the record goes first: without it the folder is no run."""
    try:
        for name in ("run.json", "evals.csv"):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be removed: {error.strerror}") from error
    with suppress(OSError):  # something else is there
        while folder != root:
            folder.rmdir()
            folder = folder.parent


def _write(folder: Path, run: Run) -> None:
    """The record comes last: without it the folder is no run."""
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
    """A line a suite and algorithm: the algorithm's name, the suite, tasks, curves and the last step of any."""
    lines: dict[tuple[str, str], list[Run]] = {}
    for each in imported.runs.values():
        lines.setdefault((each.record.suite.name, each.record.algo.name), []).append(each)
    found = []
    for (suite, algo), own in sorted(lines.items()):
        tasks = {each.record.task.name for each in own}
        last = max(each.record.protocol.steps for each in own)
        found.append([algo, suite, f"{len(tasks)}", f"{len(own)}", f"{last:,}"])
    return found
