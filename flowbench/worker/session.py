"""The cells of one worker: their run.json records, what is written into them, and how they are asked to stop."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from flowbench.common import errors, system
from flowbench.common.errors import line, tells_divergence
from flowbench.store import checkpoint, lease, records

if TYPE_CHECKING:
    from flowbench.train.trainer import Trainer


class Stopped(BaseException):
    """The run was asked to stop."""


class Cells:
    """The cells that one worker trains, and their run.json records, changed together."""

    def __init__(self, folders: Sequence[Path], leases: Sequence[lease.Lease] = ()) -> None:
        """Without `leases` nothing is held against other hosts."""
        self.folders = list(folders)
        self.runs = [records.read_run(folder) for folder in folders]
        self.trainer: Trainer | None = None  # once it is under way
        self.children = 0  # processes that step and evaluate
        self.timed_out = False
        self.stopping = False
        self.failed_transiently = True  # all that have failed did so by a fault of the machine
        self._leases = list(leases)

    @property
    def first(self) -> dict[str, Any]:
        return self.runs[0]

    def check(self) -> None:
        """To be called before anything is written into the folders. Raises lease.Lost when another host has one."""
        for each in self._leases:
            each.check()

    def update(self, **values: Any) -> None:
        """Set keys in the record of every cell that has not failed, and write them. Raises lease.Lost."""
        self.check()
        for folder, run in zip(self.folders, self.runs, strict=True):
            if run["status"] != "failed":
                run.update(values)
                records.write_run(folder, run)

    def end(self, status: str, error: str | None = None) -> None:
        """Write how it ended, when, and what memory it took at most."""
        self.update(status=status, ended=records.now(), error=error, memory=system.peak_memory(self.children))

    def fail(self, seed: int, error: Exception) -> None:
        """One cell came to nothing; the others go on. Raises lease.Lost."""
        self.check()
        self.failed_transiently &= errors.is_transient(error)
        for folder, run in zip(self.folders, self.runs, strict=True):
            if run["seed"] == seed:
                run.update(status="failed", ended=records.now(), error=said(error))
                records.write_run(folder, run)

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Handles signals: training ends at its next step with a checkpoint; before it has begun, at once."""
        ignore_signals()  # a second one must not cut off what the first one sets going
        self.stopping = True
        if self.trainer is None:
            raise Stopped
        self.trainer.stop()

    def time_out(self, number: int, frame: FrameType | None) -> None:
        """Handles the alarm: the time of `--timeout` is up."""
        self.timed_out = True
        self.stop()

    def drop_checkpoints(self) -> None:
        """Remove the checkpoints of what is done, unless they are to be kept, and those that lead nowhere."""
        for folder, run in zip(self.folders, self.runs, strict=True):
            # A cell that failed while the others went on is given up in its checkpoints, too. It begins anew, alone.
            begins_anew = run["status"] == "failed" and not tells_divergence(str(run["error"]))
            if begins_anew or (run["status"] == "done" and not run.get("keep_checkpoints")):
                checkpoint.remove(folder)

    @property
    def failed(self) -> bool:
        """Whether a cell has failed."""
        return any(run["status"] == "failed" for run in self.runs)


def said(error: BaseException) -> str:
    """What a record says of an error."""
    if isinstance(error, FloatingPointError):
        return f"{line(error)}; it goes on from its checkpoint to the same, and --force starts it over"
    return line(error)


def ignore_signals() -> None:
    """From now on nothing asks this process to stop."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
