"""Running groups: each in its slot, one's failure nobody else's."""

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

from flowbench.common import errors
from flowbench.common.errors import line
from flowbench.plan.cells import Cell
from flowbench.schedule.executors import Engine
from flowbench.schedule.executors.local import Local
from flowbench.schedule.groups import Group, is_done
from flowbench.schedule.resources import Slots
from flowbench.store import checkpoint, lease, lock, loggers, records, weights
from flowbench.worker import protocol

GRACE_SECONDS = 20.0  # how long a worker has to end by itself when it is asked to


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: `status` is "done", "failed", "stopped", "busy" or "skipped"."""

    cell: Cell
    status: str
    log: Path
    error: str = ""
    transient: bool = False  # a failure that another attempt may be spared


class Runner:
    """Runs groups in their slots. `tell` hears of every event, from several threads."""

    def __init__(
        self,
        root: Path,
        slots: Slots,
        tell: Callable[[Group, dict[str, Any]], None],
        *,
        engine: Engine | None = None,
        fail_fast: bool = False,
        redo: bool = False,
        log: Sequence[str] = (),
        checkpoint_every: int | None = None,
        keep_checkpoints: bool = False,
        keep_weights: bool = False,
        retries: int = 0,
        timeout: float | None = None,
        auto: int | None = None,
    ) -> None:
        """`fail_fast` starts nothing more after a failure; `redo` trains everything from its start, also what is done.

        Workers run on this machine unless there is another `engine`. A group that a fault of the machine ended is
        started again up to `retries` times; a worker has `timeout` seconds.
        `log` names mirrors; checkpoints come with each evaluation unless `checkpoint_every` gives steps. `auto` is
        recorded: the seeds at which a comparison that adds them ends.
        """
        self.interrupted = False
        self._root = root
        self._slots = slots
        self._tell = tell
        self._fail_fast = fail_fast
        self._redo = redo
        self._log = list(log)
        self._checkpoint_every = checkpoint_every
        self._keep_checkpoints = keep_checkpoints
        self._keep_weights = keep_weights
        self._attempts = retries + 1
        self._timeout = timeout
        self._auto = auto
        self._begun: set[Path] = set()  # what this runner has written a record of
        self._halted = threading.Event()  # nothing more is started
        self._engine = engine or Local(slots)

    def run(self, groups: Sequence[Group]) -> Iterator[Outcome]:
        """Outcomes of cells as their groups end; after an interrupt, or a failure with `fail_fast`, "skipped"."""
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
        """Train a group, again after a fault of the machine; its cells go on from their checkpoints then."""
        if self._halted.is_set():
            return self._all(group, "skipped")
        for attempt in range(1, self._attempts + 1):
            outcomes = self._attempt(group, attempt)
            fault = next((outcome.error for outcome in outcomes if outcome.transient), None)
            if fault is None or self._halted.is_set() or attempt == self._attempts:
                break
            said = f"{group}: {fault}; it is started again, attempt {attempt + 1} of {self._attempts}"
            self._tell(group, {"event": "note", "text": said})
        if self._fail_fast and any(outcome.status == "failed" for outcome in outcomes):
            self._halted.set()
        return outcomes

    def _attempt(self, group: Group, attempt: int) -> list[Outcome]:
        try:
            return self._train(group, attempt)
        except Exception as error:  # whatever is wrong with one group, such as a full disk, must not end the others
            return self._all(group, "failed", line(error), errors.is_transient(error))

    def _all(self, group: Group, status: str, error: str = "", transient: bool = False) -> list[Outcome]:
        """The same outcome for every cell of a group."""
        log = self._root / group.cells[0].path / "log.txt"
        return [Outcome(cell, status, log, error, transient) for cell in group.cells]

    def _train(self, group: Group, attempt: int) -> list[Outcome]:
        """Take the cells, write their records and run a worker, which inherits the locks or takes its own.

        Cells that somebody else trains, or has finished since they were planned, are left out of the group.
        """
        outcomes: list[Outcome] = []
        abandoned = lease.abandoned([self._root / cell.path for cell in group.cells], self._halted.wait)
        with ExitStack() as stack:
            cells, held = [], []
            for cell in group.cells:
                folder = self._root / cell.path
                try:
                    taken = self._take(cell, folder, stack, abandoned)
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
            if not self._engine.inherits:
                stack.close()
                locks = []
            started = time.monotonic()
            with log.open("a", encoding="utf-8") as stderr:
                code = self._engine.work(folders, locks, stderr, partial(self._tell, group))
            if self._engine.inherits:
                ours = [each.lease.is_held() for each in held]
            else:
                ours = self._take_again(folders, stack)
            died = self._how_it_died(code, time.monotonic() - started)
            return outcomes + [
                self._outcome(cell, log, code, died, mine) for cell, mine in zip(cells, ours, strict=True)
            ]

    def _take_again(self, folders: Sequence[Path], stack: ExitStack) -> list[bool]:
        """Which folders are nobody else's, now that the worker that held them has ended, perhaps with its node."""
        abandoned = lease.abandoned(folders, self._halted.wait)
        ours = []
        for folder in folders:
            try:
                stack.enter_context(lock.hold(folder, abandoned))
                ours.append(True)
            except lock.Busy:
                ours.append(False)
        return ours

    def _take(self, cell: Cell, folder: Path, stack: ExitStack, abandoned: Collection[Path]) -> lock.Held:
        """Hold a cell's folder; one that must not be overwritten is set aside whole.

        That is one with a finished run that is run again, or with a record that cannot be read or is not the cell's.
        """
        folder.mkdir(parents=True, exist_ok=True)
        held = stack.enter_context(lock.hold(folder, abandoned))
        record = records.recorded(folder)
        foreign = (folder / "run.json").exists() and not (record and records.is_of(record, cell))
        redo = self._redo and folder not in self._begun and record.get("status") == "done"
        if not (foreign or redo):
            return held
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%fZ")
        aside = folder.with_name(f"replaced-{stamp}-{folder.name}")
        folder.rename(aside)
        shutil.rmtree(aside / lease.FOLDER)
        folder.mkdir(exist_ok=True)
        return stack.enter_context(lock.hold(folder))

    def _prepare(self, cell: Cell, folder: Path, seeds: Sequence[int], attempt: int) -> None:
        """Write the record; without a checkpoint to go on from, clear what an earlier attempt left, too."""
        before = records.recorded(folder)
        kept: dict[str, Any] = {key: before[key] for key in ("started", "began", "resumed") if key in before}
        fresh = folder not in self._begun
        self._begun.add(folder)
        if self._redo and fresh:
            checkpoint.remove(folder)
        if not checkpoint.steps(folder):
            kept = {}
            for name in ("evals.csv", "train.csv", weights.FILE, *(["log.txt"] if fresh else [])):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / loggers.TENSORBOARD, ignore_errors=True)
        if attempt > 1:
            with (folder / "log.txt").open("a", encoding="utf-8") as log:
                log.write(f"attempt {attempt} of {self._attempts}, after: {before.get('error')}\n")
        records.write_run(folder, {**records.record(cell, seeds), **self._settings(cell), **kept, "attempts": attempt})

    def _settings(self, cell: Cell) -> dict[str, Any]:
        """How the worker is to go about it, for the record."""
        return {
            "device": self._slots.device,
            "threads": self._slots.threads,
            "precision": self._slots.precision,
            "per_gpu": self._slots.per_gpu,
            "checkpoint_every": self._checkpoint_every or cell.variant.protocol.every,
            "keep_checkpoints": self._keep_checkpoints,
            "keep_weights": self._keep_weights,
            "log": self._log,
            "timeout": self._timeout,
            "auto": self._auto,
        }

    def _outcome(self, cell: Cell, log: Path, code: int, died: str, ours: bool) -> Outcome:
        """How a cell ended by its record, which a worker that was killed had no time to write: then it is written here.

        `died` is what to say then; what is not `ours` any more is left to who trains it now. The exit status alone
        proves nothing: an algorithm may call `sys.exit`.
        """
        folder = self._root / cell.path
        record = records.recorded(folder)
        recorded = record.get("status")
        transient = code < 0 or code == protocol.EXIT_TRANSIENT
        if recorded == "done":  # however the worker ended after it had said so
            return Outcome(cell, "done", log)
        if recorded in ("failed", "stopped") and code != protocol.EXIT_BUSY:
            failed = recorded == "failed"
            return Outcome(cell, str(recorded), log, str(record.get("error") or ""), failed and transient)
        if not ours:
            return Outcome(cell, "busy", log)
        if self.interrupted:
            status, error, transient = "stopped", "", False
        else:
            status, error = "failed", died
        if record:
            records.write_run(folder, {**record, "status": status, "ended": records.now(), "error": error or None})
        return Outcome(cell, status, log, error, transient)

    def _how_it_died(self, code: int, seconds: float) -> str:
        """What there is to say of a worker that left no word, in a line."""
        if self._timeout and seconds > self._timeout:
            return protocol.timed_out(self._timeout)
        if code == protocol.EXIT_TRANSIENT:
            return "the machine failed the worker, as a full disk does; the log says more"
        if code >= 0:
            return f"the worker exited with {code} before it was done"
        if -code == signal.SIGKILL:
            return "the worker was killed by SIGKILL, most likely for want of memory; fewer --jobs at once need less"
        return f"the worker was killed by {errors.signal_name(-code)}"

    @contextmanager
    def _stop_on_signals(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM asks every worker to stop; no exception interrupts the bookkeeping."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupted(number: int, frame: FrameType | None) -> None:
            grace = 0.0 if self.interrupted else GRACE_SECONDS  # asked twice, it waits no longer
            self.interrupted = True
            self._halted.set()
            self._engine.stop(grace)

        before = {number: signal.signal(number, interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
