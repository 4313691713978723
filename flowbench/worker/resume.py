"""The checkpoints of a worker's cells: a trainer resumes from the newest, and new ones are written."""

from __future__ import annotations

import shutil
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import msgspec

from flowbench.store import checkpoint, loggers, records
from flowbench.store.csv_rows import TABLES
from flowbench.store.records import Resumed, Segment
from flowbench.train.trainer import Trainer
from flowbench.worker.session import Session


class Checkpoints:
    """Resumes a trainer from the newest checkpoint of its cells, and writes new ones in a thread."""

    def __init__(self, session: Session, trainer: Trainer, note: Callable[[str], None]) -> None:
        """`note` is given what the user should know about the resume. Raises RuntimeError if it fails."""
        self.sizes: list[Mapping[str, int]] = [{} for _ in session.folders]  # bytes of each table that are kept
        self._session, self._trainer = session, trainer
        self._writers = [checkpoint.Writer(folder) for folder in session.folders]
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        found = checkpoint.newest(session.folders)
        if found:
            self._resume(found, note)
        else:
            self._start()

    def _start(self) -> None:
        """Start from step 0: remove what an earlier attempt left without a complete checkpoint."""
        for folder, run in zip(self._session.folders, self._session.runs, strict=True):
            checkpoint.remove(folder)
            shutil.rmtree(folder / loggers.TENSORBOARD, ignore_errors=True)
            run.resumed = None
            run.began = run.segment()
        self._session.update()

    def _resume(self, found: list[checkpoint.Checkpoint], note: Callable[[str], None]) -> None:
        session, step = self._session, found[0].step
        try:
            notes = self._trainer.restore([each.state for each in found], [each.transitions for each in found])
        except Exception as error:
            hint = "flowbench run --force starts over"
            raise RuntimeError(f"cannot resume from the checkpoint of step {step}: {error}; {hint}") from error
        session.check_leases()
        self.sizes = [each.tables for each in found]
        self._writers = [checkpoint.Writer.resume(folder, step) for folder in session.folders]
        print(f"resumes from step {step}", file=sys.stderr)
        for run in session.runs:
            earlier = run.resumed or []
            segment = run.segment()
            notes += _changes(earlier[-1] if earlier else run.began or Segment(), segment)
            run.resumed = [*earlier, Resumed(at=records.now(), step=step, **msgspec.structs.asdict(segment))]
        session.update()
        for text in dict.fromkeys(notes):
            note(text)

    def save(self, step: int) -> None:
        """Copy the state of every cell and write it in a thread, so that training continues meanwhile.

        Failed cells are included: the others need them to resume together. This waits until the checkpoint before is
        written, and raises its error.
        """
        self.wait()
        trainer = self._trainer
        snapshots = [
            writer.snapshot(step, TABLES, trainer.state(index), partial(trainer.transitions, index), trainer.held)
            for index, writer in enumerate(self._writers)
        ]
        self._writing = self._thread.submit(self._write, snapshots)

    def _write(self, snapshots: Sequence[checkpoint.Snapshot]) -> None:
        for writer, snapshot in zip(self._writers, snapshots, strict=True):
            self._session.check_leases()
            writer.write(snapshot)

    def check(self) -> None:
        """Raise the error of a checkpoint that could not be written, without waiting."""
        if self._writing and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the last checkpoint is written, and raise its error."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the last checkpoint. After another error, which goes first, its own is only printed."""
        self._thread.shutdown()
        try:
            self.wait()
        except Exception:
            if kind is None:
                raise
            traceback.print_exc()


def _changes(before: Segment, now: Segment) -> list[str]:
    """What differs from the segment before, so that the numbers differ from those of an uninterrupted run."""
    earlier = msgspec.structs.asdict(before)  # early versions did not record everything
    return [
        f"resumes with {key} {value}, after {earlier[key]}: not exactly as if it had not been interrupted"
        for key, value in msgspec.structs.asdict(now).items()
        if earlier[key] not in (None, value)
    ]
