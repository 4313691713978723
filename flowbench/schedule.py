"""Which cells are due, and running them: slots side by side, a process a group, one's failure nobody else's."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import joblib

from flowbench import checkpoint, lock, machine, store, worker
from flowbench.plan import Cell

STACK_ON_GPU = 8
GRACE_SECONDS = 20.0  # how long a worker has to end by itself when it is asked to


@dataclass(frozen=True)
class Group:
    """Cells that train together in one worker process."""

    cells: tuple[Cell, ...]

    def __str__(self) -> str:
        first, seeds = self.cells[0], [cell.seed for cell in self.cells]
        if len(seeds) == 1:
            return str(first)
        run = seeds == list(range(seeds[0], seeds[-1] + 1))
        told = f"{seeds[0]}-{seeds[-1]}" if run else ",".join(map(str, seeds))
        return f"{first.variant.label} {first.task.name} seeds {told}"

    @property
    def steps(self) -> int:
        return self.cells[0].variant.protocol.steps


@dataclass(frozen=True)
class Slots:
    """How many groups train at once, on which device, with how many threads each."""

    jobs: int
    device: str  # "auto", "cpu" or "cuda"
    threads: int  # cores of a group
    gpus: int
    precision: str = "float32"  # of matrix products


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: `status` is "done", "failed", "stopped", "busy" or "skipped"."""

    cell: Cell
    status: str
    log: Path
    error: str = ""


@dataclass
class Due:
    """The cells of a grid by what is to be done with them."""

    due: list[Cell] = field(default_factory=list)
    done: list[Cell] = field(default_factory=list)
    running: list[Cell] = field(default_factory=list)


def due(root: Path, cells: Sequence[Cell], force: bool = False) -> Due:
    """Sort cells into due, done already, and being trained by somebody else. `force` makes done cells due."""
    sorted_cells = Due()
    checked: set[tuple[str, str]] = set()
    for cell in cells:
        if (cell.suite.name, cell.task.name) not in checked:
            store.check_same_task(root, cell)
            checked.add((cell.suite.name, cell.task.name))
        try:
            status = store.status(root / cell.path)
        except store.NotARun:  # it is set aside when the cell is trained
            status = "missing"
        if status == "running":
            sorted_cells.running.append(cell)
        elif not force and _is_done(root / cell.path, cell):
            sorted_cells.done.append(cell)
        else:
            sorted_cells.due.append(cell)
    return sorted_cells


def enqueue(root: Path, cells: Sequence[Cell]) -> None:
    """Write a record for every cell that has none, so that what was asked for is known whatever comes of it."""
    for cell in cells:
        folder = root / cell.path
        if not (folder / "run.json").exists():
            store.write_run(folder, store.record(cell, [cell.seed]))


def tidy(root: Path, done: Sequence[Cell]) -> None:
    """Remove checkpoints that finished cells have left because they were killed before they could."""
    for cell in done:
        folder = root / cell.path
        if (folder / checkpoint.FOLDER).exists() and not _recorded(folder).get("keep_checkpoints"):
            with suppress(lock.Busy), lock.hold(folder):
                checkpoint.remove(folder)


def _is_done(folder: Path, cell: Cell) -> bool:
    """Whether the folder holds this very cell, finished."""
    record = _recorded(folder)
    return record.get("status") == "done" and store.is_of(record, cell)


def gather(
    cells: Sequence[Cell], stack: int, root: Path | None = None, grid: Sequence[Cell] | None = None
) -> list[Group]:
    """Groups of up to `stack` seeds of one task and variant, as even as can be, in the order of their first cells.

    Cells of an interrupted group, which have checkpoints below `root`, stay together: that is what they go on with
    exactly. The others are divided as if all of `grid` were due, so that a command makes the same groups when it is
    given again.
    """
    interrupted = _interrupted(cells, root) if root else []
    groups = [Group(tuple(group)) for group in interrupted]
    going_on = {id(cell) for group in interrupted for cell in group}
    due = {id(cell) for cell in cells} - going_on
    lines: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in grid if grid is not None else [cell for cell in cells if id(cell) in due]:
        lines.setdefault(_line(cell), []).append(cell)
    for line in lines.values():
        count = math.ceil(len(line) / stack)
        bounds = [round(k * len(line) / count) for k in range(count + 1)]
        parts = [[cell for cell in line[low:high] if id(cell) in due] for low, high in pairwise(bounds)]
        groups += [Group(tuple(part)) for part in parts if part]
    place = {id(cell): position for position, cell in enumerate(cells)}
    return sorted(groups, key=lambda group: place[id(group.cells[0])])


def _interrupted(cells: Sequence[Cell], root: Path) -> list[list[Cell]]:
    """Cells with checkpoints of one step, together where they were trained together."""
    found: list[tuple[set[int], set[int], list[Cell]]] = []  # steps that all have, and that any has
    without: list[tuple[Cell, list[int]]] = []
    for cell in cells:
        saved = set(checkpoint.steps(root / cell.path))
        beside = _beside(root / cell.path)
        if not (saved and beside):
            without.append((cell, beside))
            continue
        for common, ever, group in found:
            if _line(group[0]) == _line(cell) and group[0].seed in beside and common & saved:
                common &= saved
                ever |= saved
                group.append(cell)
                break
        else:
            found.append((saved, set(saved), [cell]))

    def first_cut_short(ever: set[int], group: Sequence[Cell]) -> bool:
        """Whether it was killed amid its first checkpoint, which some cells lack: then all begin anew, together."""
        mates = [cell for cell, beside in without if group[0].seed in beside and _line(group[0]) == _line(cell)]
        return len(ever) == 1 and bool(mates)

    return [_in_order(group, root) for _, ever, group in found if not first_cut_short(ever, group)]


def _in_order(group: Sequence[Cell], root: Path) -> list[Cell]:
    """The cells in the order they were trained in: a stacked group's noise goes to its seeds in that order."""
    order = _beside(root / group[0].path)
    return sorted(group, key=lambda cell: order.index(cell.seed) if cell.seed in order else len(order))


def _beside(folder: Path) -> list[int]:
    """The seeds that a run's record says it was trained with, itself among them."""
    seeds = _recorded(folder).get("group")
    return seeds if isinstance(seeds, list) else []


def _line(cell: Cell) -> tuple[str, str, str]:
    """What cells that differ in their seeds alone have in common."""
    return cell.suite.name, cell.task.name, cell.variant.config_id


def stack_size(stack: int | None, gpus: int) -> int:
    """Seeds a group: `stack`, or what pays off: several on a GPU, which one seed cannot fill, and one on a CPU."""
    return stack or (STACK_ON_GPU if gpus else 1)


def slots(device: str, jobs: int | None, precision: str | None = None) -> Slots:
    """As many groups at once as there are GPUs, or cores, or `jobs`; each with its share of the cores as threads.

    The threads of a cell decide its last bits, so they follow from the machine and `jobs` alone: not from how many
    cells happen to be left.
    """
    gpus = machine.gpu_count() if device in ("auto", "cuda") else 0
    cores = machine.cores()
    wanted = jobs or gpus or cores
    return Slots(wanted, device, max(1, cores // wanted), gpus, precision or ("tf32" if gpus else "float32"))


class Runner:
    """Runs groups in their slots. `tell` hears of every event, from several threads."""

    def __init__(
        self,
        root: Path,
        slots: Slots,
        tell: Callable[[Group, dict[str, Any]], None],
        *,
        fail_fast: bool = False,
        redo: bool = False,
        log: Sequence[str] = (),
        checkpoint_every: int | None = None,
        keep_checkpoints: bool = False,
    ) -> None:
        """`fail_fast` starts nothing more after a failure; `redo` trains everything from its start, also what is done.

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
        self._halted = threading.Event()  # nothing more is started
        self._workers: set[subprocess.Popen[str]] = set()
        self._mutex = threading.Lock()
        self._free_gpus = list(range(slots.gpus)) * max(1, slots.jobs)

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
                if _is_done(folder, cell):
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
                code = self._work(group, folders, locks, stderr)
            return outcomes + [self._outcome(cell, log, code) for cell in cells]

    def _take(self, cell: Cell, folder: Path, stack: ExitStack) -> int:
        """Lock a cell's folder; one that must not be overwritten is set aside whole.

        That is one with a finished run that is run again, or with a record that cannot be read or is not the cell's.
        """
        folder.mkdir(parents=True, exist_ok=True)
        held = stack.enter_context(lock.hold(folder))
        record = _recorded(folder)
        foreign = (folder / "run.json").exists() and not (record and store.is_of(record, cell))
        if not (foreign or (self._redo and record.get("status") == "done")):
            return held
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%fZ")
        folder.rename(folder.with_name(f"replaced-{stamp}-{folder.name}"))
        folder.mkdir(exist_ok=True)
        return stack.enter_context(lock.hold(folder))

    def _prepare(self, cell: Cell, folder: Path, seeds: Sequence[int]) -> None:
        """Write the record; without a checkpoint to go on from, clear what an earlier attempt left, too."""
        before = _recorded(folder)
        kept: dict[str, Any] = {key: before[key] for key in ("started", "resumed") if key in before}
        if self._redo:
            checkpoint.remove(folder)
        if not checkpoint.steps(folder):
            kept = {}
            for name in ("evals.csv", "train.csv", "log.txt"):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        store.write_run(folder, {**store.record(cell, seeds), **self._settings(cell), **kept})

    def _settings(self, cell: Cell) -> dict[str, Any]:
        """How the worker is to go about it, for the record."""
        return {
            "device": self._slots.device,
            "threads": self._slots.threads,
            "precision": self._slots.precision,
            "checkpoint_every": self._checkpoint_every or cell.variant.protocol.every,
            "keep_checkpoints": self._keep_checkpoints,
            "log": self._log,
        }

    def _work(self, group: Group, folders: Sequence[Path], locks: Sequence[int], stderr: TextIO) -> int:
        """Run the worker process to its end, passing its events on; its exit status, negative for a signal."""
        command = [sys.executable, "-m", "flowbench.worker", "--locked", *map(str, folders)]
        with self._mutex:
            if self._halted.is_set():
                return worker.EXIT_STOPPED
            gpu = self._free_gpus.pop(0) if self._slots.gpus else None
            # In a session of its own, so that Ctrl-C reaches it through us, once.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=self._environment(gpu),
                pass_fds=locks,
                start_new_session=True,
            )
            self._workers.add(process)
        if self.interrupted:  # it may have been started while the others were being asked to stop
            process.terminate()
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                try:
                    event = json.loads(line)
                except json.JSONDecodeError:
                    continue  # cut off by a kill
                self._tell(group, event)
        code = process.wait()
        with self._mutex:
            self._workers.discard(process)
            if gpu is not None:
                self._free_gpus.append(gpu)
        return code

    def _environment(self, gpu: int | None) -> dict[str, str]:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self._slots.threads)}
        # Also without a package installed, the worker finds the code that this process runs.
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        # And no other: without this a folder called algos where the user stands would be imported (Python 3.11).
        environment["PYTHONSAFEPATH"] = "1"
        if gpu is not None:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[gpu] if visible else str(gpu)
        elif self._slots.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        return environment

    def _outcome(self, cell: Cell, log: Path, code: int) -> Outcome:
        """How a cell ended by its record, which a worker that was killed had no time to write: then it is written here.

        The exit status alone proves nothing: an algorithm may call `sys.exit`.
        """
        folder = self._root / cell.path
        record = _recorded(folder)
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
            self._stop_workers(grace)

        before = {number: signal.signal(number, interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop_workers(self, grace: float) -> None:
        """Ask every worker to stop, and end it when it has not within `grace` seconds."""
        asked = [process for process in list(self._workers) if process.poll() is None]
        for process in asked:
            process.terminate()

        def end() -> None:
            for process in asked:
                if process.poll() is None:
                    process.kill()

        timer = threading.Timer(grace, end)
        timer.daemon = True
        timer.start()


def _recorded(folder: Path) -> dict[str, Any]:
    """The folder's run.json, or nothing when there is none that can be read."""
    try:
        return store.read_run(folder)
    except store.NotARun:
        return {}


def _how_it_died(code: int) -> str:
    if code >= 0:
        return f"the worker exited with {code} before it was done"
    try:
        return f"the worker was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"the worker was killed by signal {-code}"
