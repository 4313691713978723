"""Worker processes on the nodes of a Ray cluster, which gives out its GPUs and cores and tries again what it lost.

A group is a Ray task. On whichever node it comes to, that does what is done on one machine: it takes the cells' locks
and runs a worker process. Where all nodes see the results folder the worker trains there, so that what a lost node
leaves is gone on with elsewhere. Where they do not, it trains in a folder of the node's own, and what it has made is
brought home at the end.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flowbench.common import system
from flowbench.common.errors import UsageError
from flowbench.schedule.executors.local import LocalExecutor
from flowbench.schedule.resources import Slots
from flowbench.store import checkpoint, lease, lock, records
from flowbench.store.records import RunRecord
from flowbench.worker import protocol

RETRIES = 3  # how often a group is tried again that was lost with its node
POLL_SECONDS = 0.5  # between looks at what workers tell, and at whether they are to stop
CONNECT_SECONDS = 10.0
BUSY_SECONDS = 120.0  # how long a group waits for its cells: a worker of a lost node may still be ending

Tell = Callable[[dict[str, Any]], None]


class Cluster:
    """A Ray cluster, connected to when it is first asked; used as a context, which the connection ends with."""

    def __init__(self, address: str | None) -> None:
        """Without an address as Ray has it: the cluster this machine is in, or one begun on it for the time being."""
        self._address = address or os.environ.get("RAY_ADDRESS")

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        ray.shutdown()

    def __str__(self) -> str:
        return f"a Ray cluster of {len(self._nodes)} node{'s' * (len(self._nodes) != 1)}"

    def gpus(self, device: str, wanted: str | None) -> tuple[str, ...]:
        """A name for each of the cluster's GPUs; none when there are none to be used. Raises UsageError."""
        if wanted is not None:
            raise UsageError(f"--gpus {wanted!r} is not for --engine ray: Ray gives out the GPUs of its nodes")
        if device == "cpu":
            return ()
        count = int(sum(node["Resources"].get("GPU", 0) for node in self._nodes))
        if device == "cuda" and not count:
            raise UsageError("--device cuda: no node of the Ray cluster has a GPU; use cpu or auto")
        return tuple(map(str, range(count)))

    def cores(self, gpus: bool) -> list[int]:
        """The cores of each node, of those with GPUs if they are what is trained on. Raises UsageError."""
        resources = [node["Resources"] for node in self._nodes]
        found = [int(each["CPU"]) for each in resources if each.get("CPU") and (each.get("GPU") or not gpus)]
        if not found:
            raise UsageError("the Ray cluster has no node to train on, with a processor core for each group")
        return found

    def executor(self, root: Path, slots: Slots) -> RayExecutor:
        """Trains cells whose folders are below `root`. Raises UsageError when some node cannot."""
        most = max(self.cores(bool(slots.gpus)))
        if slots.threads > most:
            raise UsageError(f"--threads {slots.threads}: no node of the Ray cluster has more than {most} cores")
        return RayExecutor(slots, self._sees(root))

    @cached_property
    def _nodes(self) -> list[dict[str, Any]]:
        try:
            host, colon, port = (self._address or "").removeprefix("ray://").rpartition(":")
            if colon and port.isdecimal():  # Ray itself would try for minutes
                socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
            ray.init(self._address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            where = f"--address {self._address!r}" if self._address else "--engine ray"
            raise UsageError(f"{where}: no Ray cluster can be reached: {_line(error)}") from error
        return [node for node in ray.nodes() if node["Alive"]]

    def _sees(self, folder: Path) -> bool:
        """Whether all nodes see a folder of this machine."""
        token = folder.resolve() / f".{uuid.uuid4().hex}"
        token.touch()
        try:
            looks = [
                ray.remote(sees).options(num_cpus=0, scheduling_strategy=_on(node["NodeID"])).remote(token)
                for node in self._nodes
            ]
            return all(ray.get(looks))
        except RayError as error:
            raise UsageError(f"flowbench does not run on every node of the Ray cluster: {_line(error)}") from error
        finally:
            token.unlink()


@dataclass(frozen=True)
class Work:
    """A group on its way to a node."""

    name: str
    records: Mapping[Path, RunRecord]  # the cells' run.json, by folder
    shared: bool  # whether the node sees these folders
    slots: Slots


class RayExecutor:
    """Gives groups to the cluster that this process is connected to."""

    def __init__(self, slots: Slots, shared: bool) -> None:
        """`shared` says that all nodes see the cells' folders."""
        self.inherits = not shared
        self._slots = slots
        self._shared = shared
        self._stopping = threading.Event()
        self._tasks: set[Any] = set()
        share = 1 / slots.per_gpu if slots.gpus else 0
        self._train = ray.remote(train).options(num_cpus=slots.threads, num_gpus=share, max_retries=RETRIES)
        # Beside who runs the grid, so that it is lost with no other node.
        here = _on(ray.get_runtime_context().get_node_id())
        self._desk = ray.remote(Desk).options(num_cpus=0, scheduling_strategy=here).remote()

    def work(self, folders: Sequence[Path], locks: Sequence[int], log: TextIO, tell: Tell) -> int:
        """Run a worker on a node, again where that is lost. Raises RuntimeError when it was lost too often."""
        if self._stopping.is_set():
            return protocol.EXIT_STOPPED
        queued = {folder.resolve(): records.read_run(folder) for folder in folders}
        work = Work(uuid.uuid4().hex, queued, self._shared, self._slots)
        # Of folders that the node does not see, the cells are held here.
        held = [] if self._shared else [lease.adopt(folder) for folder in folders]
        with lease.beating(held, lambda lost: print(lost, file=log)):
            code, files = self._run(work, tell)
        if not all(each.is_held() for each in held):
            return protocol.EXIT_BUSY
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return code

    def _run(self, work: Work, tell: Tell) -> tuple[int, dict[Path, bytes]]:
        task = self._train.remote(work, self._desk)
        self._tasks.add(task)
        try:
            while not ray.wait([task], timeout=POLL_SECONDS)[0]:
                self._pass_on(work, tell)
            code, files = ray.get(task)
            self._pass_on(work, tell)
        except RayError as error:
            if self._stopping.is_set():
                return protocol.EXIT_STOPPED, {}
            raise RuntimeError(_line(error)) from error
        finally:
            self._tasks.discard(task)
        return code, files

    def stop(self, grace: float) -> None:
        """Ask every worker to stop. A signal handler calls it: it waits for nothing."""
        self._stopping.set()

        def stop() -> None:
            self._desk.stop.remote(grace)
            time.sleep(grace + 4 * POLL_SECONDS)
            for task in list(self._tasks):
                ray.cancel(task, force=True)

        threading.Thread(target=stop, daemon=True).start()

    def _pass_on(self, work: Work, tell: Tell) -> None:
        for event in ray.get(self._desk.take.remote(work.name)):
            tell(event)


class Desk:
    """An actor: what workers tell, and whether they are to stop."""

    def __init__(self) -> None:
        self._told: dict[str, list[dict[str, Any]]] = {}
        self._grace: float | None = None

    def tell(self, work: str, events: Sequence[dict[str, Any]]) -> float | None:
        """Leave the events of a work; the seconds it is given to end, None while it may go on."""
        self._told.setdefault(work, []).extend(events)
        return self._grace

    def take(self, work: str) -> list[dict[str, Any]]:
        """The events left since the last time."""
        return self._told.pop(work, [])

    def stop(self, grace: float) -> None:
        """All work is to end within so many seconds."""
        self._grace = grace


def sees(token: Path) -> bool:
    """On a node: whether a file is there."""
    return token.exists()


def train(work: Work, desk: Any) -> tuple[int, dict[Path, bytes]]:
    """On a node: run a worker; its exit status, and what is to be written where the grid is run."""
    events: deque[dict[str, Any]] = deque()
    stopping = threading.Event()
    gpus = tuple(system.gpus()) if work.slots.gpus else ()  # those that Ray gave to this task
    engine = LocalExecutor(replace(work.slots, jobs=1, gpus=gpus, device=work.slots.device if gpus else "cpu"))
    with tempfile.TemporaryDirectory(prefix="flowbench-") as own, ThreadPoolExecutor(1) as pool:
        places = {home: home if work.shared else Path(own, str(n), home.name) for n, home in enumerate(work.records)}
        if not work.shared:
            for home, folder in places.items():
                records.write_run(folder, work.records[home])
        working = pool.submit(_work, engine, list(places.values()), stopping, events.append)
        asked = None
        while not working.done() or events:
            wait([working], POLL_SECONDS)
            told = [events.popleft() for _ in range(len(events))]
            grace = ray.get(desk.tell.remote(work.name, told))
            if grace != asked:
                asked = grace
                stopping.set()
                engine.stop(grace)
        made = {} if work.shared else {home: _made(folder) for home, folder in places.items()}
    return working.result(), {home / name: content for home, files in made.items() for name, content in files.items()}


def _work(engine: LocalExecutor, folders: Sequence[Path], stopping: threading.Event, tell: Tell) -> int:
    """Run a worker once the cells are nobody else's: one of a lost node may still be about to end."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            with ExitStack() as stack:
                abandoned = lease.abandoned(folders, stopping.wait)
                locks = [stack.enter_context(lock.hold(folder, abandoned)).descriptor for folder in folders]
                if all(records.is_done(folder) for folder in folders):
                    return 0  # the node was lost after it had finished
                log = stack.enter_context((folders[0] / "log.txt").open("a", encoding="utf-8"))
                return engine.work(folders, locks, log, tell)
        except lock.Busy:
            if time.monotonic() > deadline:
                return protocol.EXIT_BUSY
            if stopping.wait(POLL_SECONDS):
                return protocol.EXIT_STOPPED


def _made(folder: Path) -> dict[Path, bytes]:
    """What a run's folder holds, by path within it, less its checkpoints; the record last, which says it is whole."""
    found = [path for path in folder.rglob("*") if path.is_file() and checkpoint.FOLDER not in path.parts]
    found.sort(key=lambda path: path.name == "run.json")
    return {path.relative_to(folder): path.read_bytes() for path in found if path.name != lock.NAME}


def _on(node: str) -> NodeAffinitySchedulingStrategy:
    """On this node and no other."""
    return NodeAffinitySchedulingStrategy(node, soft=False)


def _line(error: BaseException) -> str:
    """What an error says, in a line; of one that was raised on a node, what that says."""
    raised = getattr(error, "cause", None)
    lines = str(raised or error).strip().splitlines() or [""]
    return f"{type(raised or error).__name__}: {lines[-1] if raised else lines[0]}"
