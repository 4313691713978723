"""Runs groups, each in its slot; the failure of one does not affect the others."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import joblib
from msgspec.structs import replace

from flowbench.common import errors
from flowbench.common.errors import describe
from flowbench.plan.cells import Cell
from flowbench.plan.options import RunOptions
from flowbench.schedule.executors import Executor
from flowbench.schedule.executors.local import LocalExecutor
from flowbench.schedule.groups import Group, is_done
from flowbench.schedule.resources import Slots
from flowbench.store import checkpoint, lease, lock, loggers, records, weights
from flowbench.store.records import RunRecord
from flowbench.worker import protocol

GRACE_SECONDS = 20.0  # how long a worker may take to stop when it is asked to


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: `status` is "done", "failed", "stopped", "busy" or "skipped"."""

    cell: Cell
    status: str
    log: Path
    error: str = ""
    transient: bool = False  # a fault of the machine, which another attempt may not meet


class Runner:
    """Runs groups in their slots."""

    def __init__(
        self,
        root: Path,
        slots: Slots,
        on_event: Callable[[Group, dict[str, Any]], None],
        options: RunOptions,
        executor: Executor | None = None,
    ) -> None:
        """`on_event` is called with every event of a worker, from several threads.

        Without an `executor` workers run on this machine.
        """
        self.interrupted = False
        self._root = root
        self._slots = slots
        self._on_event = on_event
        self._options = options
        self._started: set[Path] = set()  # folders whose record this runner has written
        self._halted = threading.Event()  # no further group is started
        self._executor = executor or LocalExecutor(slots)

    def run(self, groups: Sequence[Group]) -> Iterator[Outcome]:
        """Yield the outcome of each cell when its group ends.

        After an interrupt, or a failure with `fail_fast`, the remaining cells are "skipped".
        """
        parallel = joblib.Parallel(
            n_jobs=self._slots.jobs,
            backend="threading",
            return_as="generator_unordered",
            batch_size=1,
            pre_dispatch="all",
        )
        with self._stop_on_signals():
            for outcomes in parallel(joblib.delayed(self._run_group)(group) for group in groups):
                yield from outcomes

    def _run_group(self, group: Group) -> list[Outcome]:
        """Train a group, and again after a fault of the machine: its cells then resume from their checkpoints."""
        if self._halted.is_set():
            return self._all(group, "skipped")
        attempts = self._options.retries + 1
        for attempt in range(1, attempts + 1):
            outcomes = self._attempt(group, attempt)
            fault = next((outcome.error for outcome in outcomes if outcome.transient), None)
            if fault is None or self._halted.is_set() or attempt == attempts:
                break
            text = f"{group}: {fault}; it is started again, attempt {attempt + 1} of {attempts}"
            self._on_event(group, {"event": "note", "text": text})
        if self._options.fail_fast and any(outcome.status == "failed" for outcome in outcomes):
            self._halted.set()
        return outcomes

    def _attempt(self, group: Group, attempt: int) -> list[Outcome]:
        try:
            return self._train(group, attempt)
        except Exception as error:  # an error of one group, such as a full disk, must not end the others
            return self._all(group, "failed", describe(error), errors.is_transient(error))

    def _all(self, group: Group, status: str, error: str = "", transient: bool = False) -> list[Outcome]:
        """The same outcome for every cell of a group."""
        log = self._root / group.cells[0].path / "log.txt"
        return [Outcome(cell, status, log, error, transient) for cell in group.cells]

    def _train(self, group: Group, attempt: int) -> list[Outcome]:
        """Lock the cells, write their records and run a worker, which inherits the locks or takes its own.

        Cells that another process trains, or has finished since they were planned, are left out of the group.
        """
        outcomes: list[Outcome] = []
        abandoned = lease.abandoned([self._root / cell.path for cell in group.cells], self._halted.wait)
        with ExitStack() as stack:
            cells, held = [], []
            for cell in group.cells:
                folder = self._root / cell.path
                try:
                    taken = self._hold(cell, folder, stack, abandoned)
                except lock.Busy:
                    outcomes.append(Outcome(cell, "busy", folder / "log.txt"))
                    continue
                if is_done(folder, cell):
                    outcomes.append(Outcome(cell, "done", folder / "log.txt"))
                    continue
                cells.append(cell)
                held.append(taken)
            if not cells:
                return outcomes
            for cell in cells:
                self._prepare(cell, self._root / cell.path, [each.seed for each in cells], attempt)
            folders = [self._root / cell.path for cell in cells]
            log = folders[0] / "log.txt"
            locks = [each.descriptor for each in held]
            if not self._executor.inherits:
                stack.close()
                locks = []
            started = time.monotonic()
            with log.open("a", encoding="utf-8") as stderr:
                code = self._executor.work(folders, locks, stderr, partial(self._on_event, group))
            if self._executor.inherits:
                ours = [each.lease.is_held() for each in held]
            else:
                ours = self._hold_again(folders, stack)
            cause = self._cause_of_death(code, time.monotonic() - started)
            return outcomes + [
                self._outcome(cell, log, code, cause, mine) for cell, mine in zip(cells, ours, strict=True)
            ]

    def _hold_again(self, folders: Sequence[Path], stack: ExitStack) -> list[bool]:
        """Lock the folders after their worker, or its node, has ended; which of them no other process holds."""
        abandoned = lease.abandoned(folders, self._halted.wait)
        ours = []
        for folder in folders:
            try:
                stack.enter_context(lock.hold(folder, abandoned))
                ours.append(True)
            except lock.Busy:
                ours.append(False)
        return ours

    def _hold(self, cell: Cell, folder: Path, stack: ExitStack, abandoned: Collection[Path]) -> lock.Held:
        """Lock a cell's folder; rename a folder that must not be overwritten, and make a new one.

        It must not be overwritten if it holds a finished run that is run again, or a record that cannot be read or
        belongs to another cell.
        """
        folder.mkdir(parents=True, exist_ok=True)
        held = stack.enter_context(lock.hold(folder, abandoned))
        record = records.read_if_valid(folder)
        foreign = (folder / "run.json").exists() and not (record and record.is_of(cell))
        redo = self._options.force and folder not in self._started and record is not None and record.status == "done"
        if not (foreign or redo):
            return held
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%fZ")
        aside = folder.with_name(f"replaced-{stamp}-{folder.name}")
        folder.rename(aside)
        shutil.rmtree(aside / lease.FOLDER)
        folder.mkdir(exist_ok=True)
        return stack.enter_context(lock.hold(folder))

    def _prepare(self, cell: Cell, folder: Path, seeds: Sequence[int], attempt: int) -> None:
        """Write the record; if there is no checkpoint to resume from, also remove the files of an earlier attempt."""
        before = records.read_if_valid(folder)
        first = folder not in self._started
        self._started.add(folder)
        if self._options.force and first:
            checkpoint.remove(folder)
        record = self._record(cell, seeds, attempt)
        if checkpoint.steps(folder):
            if before:
                record = replace(record, started=before.started, began=before.began, resumed=before.resumed)
        else:
            for name in ("evals.csv", "train.csv", weights.FILE, *(["log.txt"] if first else [])):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / loggers.TENSORBOARD, ignore_errors=True)
        if attempt > 1:
            error = before.error if before else None
            with (folder / "log.txt").open("a", encoding="utf-8") as log:
                log.write(f"attempt {attempt} of {self._options.retries + 1}, after: {error}\n")
        records.write_run(folder, record)

    def _record(self, cell: Cell, seeds: Sequence[int], attempt: int) -> RunRecord:
        """The record of a cell, with what its worker needs to know."""
        options, slots = self._options, self._slots
        return replace(
            RunRecord.of(cell, seeds),
            device=slots.device,
            threads=slots.threads,
            precision=slots.precision,
            per_gpu=slots.per_gpu,
            checkpoint_every=options.checkpoint_every or cell.variant.protocol.every,
            keep_checkpoints=options.keep_checkpoints,
            keep_weights=options.keep_weights,
            log=list(options.log),
            timeout=options.timeout,
            auto=options.auto,
            attempts=attempt,
        )

    def _outcome(self, cell: Cell, log: Path, code: int, cause: str, ours: bool) -> Outcome:
        """How a cell ended, by its record; if a killed worker left it unfinished, the end is written here.

        `cause` is the error to write then. A cell that is not `ours` is left to the process that trains it now. The
        exit code alone proves nothing: an algorithm may call `sys.exit`.
        """
        folder = self._root / cell.path
        record = records.read_if_valid(folder)
        status = record.status if record else None
        transient = code < 0 or code == protocol.EXIT_TRANSIENT
        if status == "done":  # however the worker ended afterwards
            return Outcome(cell, "done", log)
        if record and status in ("failed", "stopped") and code != protocol.EXIT_BUSY:
            return Outcome(cell, status, log, record.error or "", status == "failed" and transient)
        if not ours:
            return Outcome(cell, "busy", log)
        if self.interrupted:
            status, error, transient = "stopped", "", False
        else:
            status, error = "failed", cause
        if record:
            records.write_run(folder, replace(record, status=status, ended=records.now(), error=error or None))
        return Outcome(cell, status, log, error, transient)

    def _cause_of_death(self, code: int, seconds: float) -> str:
        """One line about a worker that ended without recording how."""
        timeout = self._options.timeout
        if timeout and seconds > timeout:
            return protocol.timed_out(timeout)
        if code == protocol.EXIT_TRANSIENT:
            return "a fault of the machine, such as a full disk, ended the worker; see the log"
        if code >= 0:
            return f"the worker exited with {code} before it was done"
        if -code == signal.SIGKILL:
            return "the worker was killed by SIGKILL, most likely because memory ran out; use fewer --jobs"
        return f"the worker was killed by {errors.signal_name(-code)}"

    @contextmanager
    def _stop_on_signals(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM asks every worker to stop; no exception interrupts the bookkeeping."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupted(number: int, frame: FrameType | None) -> None:
            grace = 0.0 if self.interrupted else GRACE_SECONDS  # a second signal ends the workers at once
            self.interrupted = True
            self._halted.set()
            self._executor.stop(grace)

        before = {number: signal.signal(number, interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
