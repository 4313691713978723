"""Running groups: each in its slot, one's failure nobody else's."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import joblib

from flowbench import checkpoint, lock, store, weights, worker
from flowbench.engines import Engine
from flowbench.engines.local import Local
from flowbench.plan import Cell
from flowbench.schedule import Group, is_done
from flowbench.slots import Slots

GRACE_SECONDS = 20.0  # how long a worker has to end by itself when it is asked to


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: `status` is "done", "failed", "stopped", "busy" or "skipped"."""

    cell: Cell
    status: str
    log: Path
    error: str = ""


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
    ) -> None:
        """`fail_fast` starts nothing more after a failure; `redo` trains everything from its start, also what is done.

        Workers run on this machine unless there is another `engine`.
        `log` names mirrors; checkpoints come with each evaluation unless `checkpoint_every` gives steps.
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
        if self._halted.is_set():
            return self._all(group, "skipped")
        try:
            outcomes = self._train(group)
        except Exception as error:  # whatever is wrong with one group, such as a full disk, must not end the others
            outcomes = self._all(group, "failed", " ".join(f"{type(error).__name__}: {error}".split()))
        if self._fail_fast and any(outcome.status == "failed" for outcome in outcomes):
            self._halted.set()
        return outcomes

    def _all(self, group: Group, status: str, error: str = "") -> list[Outcome]:
        """The same outcome for every cell of a group."""
        return [Outcome(cell, status, self._root / group.cells[0].path / "log.txt", error) for cell in group.cells]

    def _train(self, group: Group) -> list[Outcome]:
        """Take the cells' locks, write their records and run a worker, which inherits the locks.

        Cells that somebody else trains, or has finished since they were planned, are left out of the group.
        """
        outcomes: list[Outcome] = []
        with ExitStack() as stack:
            cells, locks = [], []
            for cell in group.cells:
                folder = self._root / cell.path
                try:
                    held = self._take(cell, folder, stack)
                except lock.Busy:
                    outcomes.append(Outcome(cell, "busy", folder / "log.txt"))
                    continue
                if is_done(folder, cell):
                    outcomes.append(Outcome(cell, "done", folder / "log.txt"))
                    continue
                cells.append(cell)
                locks.append(held)
            if not cells:
                return outcomes
            for cell in cells:
                self._prepare(cell, self._root / cell.path, [each.seed for each in cells])
            folders = [self._root / cell.path for cell in cells]
            log = folders[0] / "log.txt"
            with log.open("a", encoding="utf-8") as stderr:
                code = self._engine.work(folders, locks, stderr, partial(self._tell, group))
            return outcomes + [self._outcome(cell, log, code) for cell in cells]

    def _take(self, cell: Cell, folder: Path, stack: ExitStack) -> int:
        """Lock a cell's folder; one that must not be overwritten is set aside whole.

        That is one with a finished run that is run again, or with a record that cannot be read or is not the cell's.
        """
        folder.mkdir(parents=True, exist_ok=True)
        held = stack.enter_context(lock.hold(folder))
        record = store.recorded(folder)
        foreign = (folder / "run.json").exists() and not (record and store.is_of(record, cell))
        if not (foreign or (self._redo and record.get("status") == "done")):
            return held
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%fZ")
        folder.rename(folder.with_name(f"replaced-{stamp}-{folder.name}"))
        folder.mkdir(exist_ok=True)
        return stack.enter_context(lock.hold(folder))

    def _prepare(self, cell: Cell, folder: Path, seeds: Sequence[int]) -> None:
        """Write the record; without a checkpoint to go on from, clear what an earlier attempt left, too."""
        before = store.recorded(folder)
        kept: dict[str, Any] = {key: before[key] for key in ("started", "resumed") if key in before}
        if self._redo:
            checkpoint.remove(folder)
        if not checkpoint.steps(folder):
            kept = {}
            for name in ("evals.csv", "train.csv", "log.txt", weights.FILE):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        store.write_run(folder, {**store.record(cell, seeds), **self._settings(cell), **kept})

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
        }

    def _outcome(self, cell: Cell, log: Path, code: int) -> Outcome:
        """How a cell ended by its record, which a worker that was killed had no time to write: then it is written here.

        The exit status alone proves nothing: an algorithm may call `sys.exit`.
        """
        folder = self._root / cell.path
        record = store.recorded(folder)
        recorded = record.get("status")
        if recorded == "done" and code in (0, worker.EXIT_FAILED):  # of a group, some may fail
            return Outcome(cell, "done", log)
        if recorded in ("failed", "stopped"):
            return Outcome(cell, str(recorded), log, str(record.get("error") or ""))
        status = "stopped" if self.interrupted else "failed"
        error = "" if self.interrupted else _how_it_died(code)
        if record:
            store.write_run(folder, {**record, "status": status, "ended": store.now(), "error": error or None})
        return Outcome(cell, status, log, error)

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


def _how_it_died(code: int) -> str:
    if code >= 0:
        return f"the worker exited with {code} before it was done"
    try:
        return f"the worker was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"the worker was killed by signal {-code}"
