"""The cells of one worker: their folders and records, changed together, and the requests to stop."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from flowbench.common import errors, system
from flowbench.common.errors import describe, is_divergence
from flowbench.store import checkpoint, lease, records
from flowbench.store.records import Memory, RunRecord, Status

if TYPE_CHECKING:
    from flowbench.train.trainer import Trainer


class Stopped(BaseException):
    """The worker was asked to stop."""


class Session:
    """The cells that one worker trains."""

    def __init__(self, folders: Sequence[Path], leases: Sequence[lease.Lease] = ()) -> None:
        """`leases` are those of the folders; without them other hosts are not considered."""
        self.folders = list(folders)
        self.runs = [records.read_run(folder) for folder in folders]
        self.trainer: Trainer | None = None  # set when training begins
        self.child_processes = 0  # processes that step environments and evaluate
        self.timed_out = False
        self.stopping = False
        self.failed_transiently = True  # every failure so far was a fault of the machine
        self._leases = list(leases)

    @property
    def first(self) -> RunRecord:
        """The record of the first cell; the settings of the run are the same in all."""
        return self.runs[0]

    @property
    def failed(self) -> bool:
        """Whether a cell has failed."""
        return any(run.status == "failed" for run in self.runs)

    def check_leases(self) -> None:
        """Call before writing anything into the folders. Raises lease.Lost if another host has taken one over."""
        for each in self._leases:
            each.check()

    def update(self, **values: Any) -> None:
        """Set fields in the record of every cell that has not failed, and write the records. Raises lease.Lost."""
        self.check_leases()
        for folder, run in zip(self.folders, self.runs, strict=True):
            if run.status != "failed":
                _write(folder, run, **values)

    def end(self, status: Status, error: str | None = None) -> None:
        """Write how the cells ended, when, and their peak memory."""
        memory = Memory(**system.peak_memory(self.child_processes))
        self.update(status=status, ended=records.now(), error=error, memory=memory)

    def fail(self, seed: int, error: Exception) -> None:
        """Write that one cell failed; the others continue. Raises lease.Lost."""
        self.check_leases()
        self.failed_transiently &= errors.is_transient(error)
        for folder, run in zip(self.folders, self.runs, strict=True):
            if run.seed == seed:
                _write(folder, run, status="failed", ended=records.now(), error=failure(error))

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Signal handler: training stops with a checkpoint after its current step; before training, at once."""
        ignore_signals()  # a second signal must not interrupt the stop
        self.stopping = True
        if self.trainer is None:
            raise Stopped
        self.trainer.stop()

    def time_out(self, number: int, frame: FrameType | None) -> None:
        """Handler of the alarm that `--timeout` sets."""
        self.timed_out = True
        self.stop()

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints of finished cells, unless they are to be kept, and those that cannot be resumed."""
        for folder, run in zip(self.folders, self.runs, strict=True):
            # A cell that failed while the others continued has also failed in its later checkpoints: it starts over.
            starts_over = run.status == "failed" and not is_divergence(str(run.error))
            if starts_over or (run.status == "done" and not run.keep_checkpoints):
                checkpoint.remove(folder)


def _write(folder: Path, run: RunRecord, **values: Any) -> None:
    for name, value in values.items():
        setattr(run, name, value)
    records.write_run(folder, run)


def failure(error: BaseException) -> str:
    """An error in one line, for the record."""
    if isinstance(error, FloatingPointError):
        return f"{describe(error)}; resuming from its checkpoint fails again, --force starts it over"
    return describe(error)


def ignore_signals() -> None:
    """Ignore every later request to stop."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
