"""The checkpoints of a worker's cells: a trainer resumes from the newest, and new ones are written."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from flowbench.store import checkpoint, loggers, records
from flowbench.store.csv_rows import TABLES
from flowbench.store.records import Resumed, Segment
from flowbench.train.trainer import Trainer
from flowbench.worker.session import Session


class Checkpoints:
    """Resumes a trainer from the newest checkpoint of its cells, and writes new ones."""

    def __init__(self, session: Session, trainer: Trainer, note: Callable[[str], None]) -> None:
        """`note` is given what the user should know about the resume. Raises RuntimeError if it fails."""
        self.sizes: list[Mapping[str, int]] = [{} for _ in session.folders]  # bytes of each table that are kept
        self._session, self._trainer = session, trainer
        self._writers = [checkpoint.Writer(folder) for folder in session.folders]
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
        """Write a checkpoint of every cell, failed ones included: the others need them to resume together."""
        trainer = self._trainer
        for index, writer in enumerate(self._writers):
            writer.write(step, TABLES, trainer.state(index), partial(trainer.transitions, index), trainer.held)


def _changes(before: Segment, now: Segment) -> list[str]:
    """What differs from the segment before, so that the numbers differ from those of an uninterrupted run."""
    earlier = msgspec.structs.asdict(before)  # early versions did not record everything
    return [
        f"resumes with {key} {value}, after {earlier[key]}: not exactly as if it had not been interrupted"
        for key, value in msgspec.structs.asdict(now).items()
        if earlier[key] not in (None, value)
    ]
