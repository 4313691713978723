"""Reads the state of a grid from its results folder, repeatedly; each time only new files and rows are read.

Only files are read. The processes that train, on this machine or on others, are not contacted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowbench.common.pace import Pace, time_left
from flowbench.store import csv_rows, records
from flowbench.store.load import Selection, check_root
from flowbench.store.records import RunRecord

PACE_ROWS = 50  # the last rows of a table, from which the speed of a run is computed


@dataclass(frozen=True)
class Running:
    """A cell that is training."""

    suite: str
    task: str
    algo: str
    seed: int
    step: int  # the last one in its files
    steps: int
    speed: float | None  # recent steps per second
    last: float | None  # the return of the last evaluation; before the first one, of the last training episode
    curve: tuple[float, ...]  # the returns of all evaluations
    group: str  # the same for seeds that train together

    @property
    def left(self) -> float | None:
        """Seconds until it ends, at this speed."""
        return (self.steps - self.step) / self.speed if self.speed else None


@dataclass(frozen=True)
class Failure:
    """A cell that failed, and its error in one line."""

    task: str
    algo: str
    seed: int
    error: str
    ended: str


@dataclass(frozen=True)
class Snapshot:
    """A grid at one moment."""

    counts: Mapping[str, int]  # number of cells by status
    share: float  # of the steps of all cells, the fraction that is done
    left: float | None  # seconds until everything is done, if as many groups as now train concurrently
    running: Sequence[Running]
    failures: Sequence[Failure]  # latest first
    problems: Sequence[str]  # one message per run that cannot be read

    @property
    def finished(self) -> bool:
        """Whether no cell is running or queued."""
        return bool(self.counts) and not self.counts.get("running") and not self.counts.get("queued")


@dataclass
class _Known:
    """The record of a run when it was last read, and the rows of its tables that were read while it trains."""

    mark: tuple[int, ...]  # identifies the version of the file
    run: RunRecord
    status: str = ""
    tables: dict[str, csv_rows.Tail] = field(default_factory=dict)


class Watcher:
    """Reads the state of the runs of some suites and algorithms in a results folder."""

    def __init__(self, root: Path, suite_names: Sequence[str] = (), algo_names: Sequence[str] = ()) -> None:
        self._root = root
        self._names = suite_names, algo_names
        self._known: dict[Path, _Known] = {}

    def look(self, check: bool = False) -> Snapshot:
        """The state of the grid now.

        With `check`, raises UsageError if there is no results folder, or if a name selects none of its runs.
        """
        if check:
            check_root(self._root)
        problems: list[str] = []
        self._known = self._read_all(problems)
        selection = Selection(*self._names)
        unpublished = {folder: known for folder, known in self._known.items() if not known.run.published}
        chosen = {folder: known for folder, known in unpublished.items() if selection.accepts(known.run)}
        if check and unpublished:
            selection.check(self._root)
        running: list[Running] = []
        for folder, known in chosen.items():
            with _report_unreadable(problems, folder):
                known.status = self._status(folder, known)
                if known.status == "running":
                    running.append(_running(folder, known))
                else:
                    known.tables.clear()
        return _snapshot(list(chosen.values()), running, problems)

    def _read_all(self, problems: list[str]) -> dict[Path, _Known]:
        """The records that can be read."""
        found: dict[Path, _Known] = {}
        for folder in records.folders(self._root):
            with _report_unreadable(problems, folder):
                if known := self._read(folder):
                    found[folder] = known
        return found

    def _status(self, folder: Path, known: _Known) -> str:
        status = records.status_now(folder, known.run)
        if status == "stopped" and self._read(folder):  # it may have ended after its record was read
            status = records.status_now(folder, known.run)
        return status

    def _read(self, folder: Path) -> _Known | None:
        """The record of a run, read again only if its file has changed; None if the file has been removed."""
        path = folder / "run.json"
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        mark = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        known = self._known.get(folder)
        if known is None:
            return _Known(mark, records.read_placed(folder))
        if known.mark != mark:
            known.run, known.mark = records.read_placed(folder), mark
        return known


@contextmanager
def _report_unreadable(problems: list[str], folder: Path) -> Iterator[None]:
    """Adds a run that cannot be read to `problems`, unless it has been removed in the meantime."""
    try:
        yield
    except (records.NotARun, csv_rows.Unreadable) as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            problems.append(str(error))
    except OSError as error:
        problems.append(f"{folder}: {error.strerror}")


def _running(folder: Path, known: _Known) -> Running:
    """The state of a running cell, from its tables."""
    run = known.run
    if not known.tables:
        known.tables["evals"] = csv_rows.Tail(folder / "evals.csv", ("step", "seconds", "mean"))
        known.tables["train"] = csv_rows.Tail(folder / "train.csv", ("step", "seconds", "return"))
    for table in known.tables.values():
        table.update()
    evals, train = ([row for row in known.tables[name].rows if math.isfinite(row[0])] for name in ("evals", "train"))
    returns = [row[2] for row in evals] or [row[2] for row in train[-1:]]
    random = run.config.get("random_steps")
    return Running(
        suite=run.suite.name,
        task=run.task.name,
        algo=run.algo.label,
        seed=run.seed,
        step=min(int(max([0.0, *(row[0] for row in [*evals, *train])])), run.protocol.steps),
        steps=run.protocol.steps,
        speed=_speed(train, random) or _speed(evals, random),
        last=returns[-1] if returns else None,
        curve=tuple(row[2] for row in evals),
        group=_group(run),
    )


def _speed(table: Sequence[Sequence[float]], random_steps: Any) -> float | None:
    """Steps per second in the last rows of a table, without the random steps if there are enough other rows."""
    timed = [row for row in table if math.isfinite(row[1])]
    if isinstance(random_steps, int) and sum(row[0] >= random_steps for row in timed) > 1:
        timed = [row for row in timed if row[0] >= random_steps]
    if len(timed) < 2:
        return None
    first, last = timed[-PACE_ROWS:][0], timed[-1]
    steps, seconds = last[0] - first[0], last[1] - first[1]
    return steps / seconds if steps > 0 and seconds > 0 else None


def _group(run: RunRecord) -> str:
    return f"{run.suite.name} {run.task.name} {run.config_id} {run.group or run.seed}"


def _snapshot(chosen: Sequence[_Known], running: Sequence[Running], problems: Sequence[str]) -> Snapshot:
    counts = {status: sum(known.status == status for known in chosen) for status in records.STATUSES}
    done = [known.run for known in chosen if known.status == "done"]
    taken = sum(run.protocol.steps for run in done) + sum(cell.step for cell in running)
    budget = sum(known.run.protocol.steps for known in chosen)
    failures = [_failure(known.run) for known in chosen if known.status == "failed"]
    return Snapshot(
        counts={status: count for status, count in counts.items() if count},
        share=taken / budget if budget > 0 else 0.0,
        left=_seconds_left(running, [known.run for known in chosen if known.status == "queued"], done),
        running=running,
        failures=sorted(failures, key=lambda failure: failure.ended, reverse=True),
        problems=problems,
    )


def _failure(run: RunRecord) -> Failure:
    error = " ".join((run.error or "no error was recorded").split())
    return Failure(run.task.name, run.algo.label, run.seed, error, run.ended or "")


def _seconds_left(running: Sequence[Running], queued: Sequence[RunRecord], done: Sequence[RunRecord]) -> float | None:
    """Seconds until the last group ends, if as many as now train concurrently; None if that is unknown."""
    pace = Pace()
    for run in done:
        pace.observe(run.task.name, run.algo.label, run.protocol.steps, run.seconds or 0.0)
    for cell in running:
        if cell.speed:
            pace.observe(cell.task, cell.algo, cell.steps, cell.steps / cell.speed)
    ends: dict[str, float] = {}
    for cell in running:
        left = pace.seconds(cell.task, cell.algo, cell.steps - cell.step) if cell.left is None else cell.left
        if left is None:
            return None
        ends[cell.group] = max(left, ends.get(cell.group, 0.0))
    waiting = {_group(run): pace.seconds(run.task.name, run.algo.label, run.protocol.steps) or 0.0 for run in queued}
    return time_left(list(ends.values()), waiting.values(), len(ends)) if ends else None
