"""Worker processes on the nodes of a Ray cluster, which assigns GPUs and cores and retries the tasks of lost nodes.

A group is a Ray task. On its node the task does what happens on one machine: it locks the cells and runs a worker
process. If all nodes share the results folder, the worker trains there, and another node resumes what a lost node left.
Otherwise it trains in a temporary folder of the node, and its files are sent back at the end.
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

RETRIES = 3  # how often a group of a lost node is retried
POLL_SECONDS = 0.5  # between checks for events of workers, and for a request to stop
CONNECT_SECONDS = 10.0
BUSY_SECONDS = 120.0  # how long a group waits for its locks: a worker of a lost node may still be ending

OnEvent = Callable[[dict[str, Any]], None]


class Cluster:
    """A Ray cluster. It connects at its first use; leaving its context closes the connection."""

    def __init__(self, address: str | None) -> None:
        """Without an address Ray decides: the cluster of this machine, or a temporary one started on it."""
        self._address = address or os.environ.get("RAY_ADDRESS")

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        ray.shutdown()

    def __str__(self) -> str:
        return f"a Ray cluster of {len(self._nodes)} node{'s' * (len(self._nodes) != 1)}"

    def gpus(self, device: str, wanted: str | None) -> tuple[str, ...]:
        """A name for each GPU that may be used. Raises UsageError."""
        if wanted is not None:
            raise UsageError(f"--gpus {wanted!r} cannot be used with --engine ray: Ray assigns the GPUs of its nodes")
        if device == "cpu":
            return ()
        count = int(sum(node["Resources"].get("GPU", 0) for node in self._nodes))
        if device == "cuda" and not count:
            raise UsageError("--device cuda: no node of the Ray cluster has a GPU; use cpu or auto")
        return tuple(map(str, range(count)))

    def cores(self, gpus: bool) -> list[int]:
        """The cores of each node, or of each node with GPUs if `gpus` is set. Raises UsageError."""
        resources = [node["Resources"] for node in self._nodes]
        found = [int(each["CPU"]) for each in resources if each.get("CPU") and (each.get("GPU") or not gpus)]
        if not found:
            raise UsageError("no node of the Ray cluster can train: none has a free processor core")
        return found

    def executor(self, root: Path, slots: Slots) -> RayExecutor:
        """An executor for cells below `root`. Raises UsageError if a node cannot train them."""
        most = max(self.cores(bool(slots.gpus)))
        if slots.threads > most:
            raise UsageError(f"--threads {slots.threads}: no node of the Ray cluster has more than {most} cores")
        return RayExecutor(slots, self._sees(root))

    @cached_property
    def _nodes(self) -> list[dict[str, Any]]:
        try:
            host, colon, port = (self._address or "").removeprefix("ray://").rpartition(":")
            if colon and port.isdecimal():  # Ray itself would keep trying for minutes
                socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
            ray.init(self._address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            where = f"--address {self._address!r}" if self._address else "--engine ray"
            raise UsageError(f"{where}: no Ray cluster can be reached: {_line(error)}") from error
        return [node for node in ray.nodes() if node["Alive"]]

    def _sees(self, folder: Path) -> bool:
        """Whether all nodes share a folder of this machine."""
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
    """A group that is sent to a node."""

    name: str
    records: Mapping[Path, RunRecord]  # the cells' run.json, by folder
    shared: bool  # whether the node shares these folders
    slots: Slots


class RayExecutor:
    """Runs groups on the cluster that this process is connected to."""

    def __init__(self, slots: Slots, shared: bool) -> None:
        """`shared`: all nodes share the cells' folders."""
        self.inherits = not shared
        self._slots = slots
        self._shared = shared
        self._stopping = threading.Event()
        self._tasks: set[Any] = set()
        share = 1 / slots.per_gpu if slots.gpus else 0
        self._train = ray.remote(train).options(num_cpus=slots.threads, num_gpus=share, max_retries=RETRIES)
        # On the node that runs the grid, so that the loss of another node does not affect it.
        here = _on(ray.get_runtime_context().get_node_id())
        self._desk = ray.remote(Desk).options(num_cpus=0, scheduling_strategy=here).remote()

    def work(self, folders: Sequence[Path], locks: Sequence[int], log: TextIO, on_event: OnEvent) -> int:
        """Run a worker on a node, again if the node is lost. Raises RuntimeError if nodes were lost too often."""
        if self._stopping.is_set():
            return protocol.EXIT_STOPPED
        queued = {folder.resolve(): records.read_run(folder) for folder in folders}
        work = Work(uuid.uuid4().hex, queued, self._shared, self._slots)
        # Folders that the node does not share are held by this process.
        held = [] if self._shared else [lease.adopt(folder) for folder in folders]
        with lease.beating(held, lambda error: print(error, file=log)):
            code, files = self._run(work, on_event)
        if not all(each.is_held() for each in held):
            return protocol.EXIT_BUSY
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return code

    def _run(self, work: Work, on_event: OnEvent) -> tuple[int, dict[Path, bytes]]:
        task = self._train.remote(work, self._desk)
        self._tasks.add(task)
        try:
            while not ray.wait([task], timeout=POLL_SECONDS)[0]:
                self._forward_events(work, on_event)
            code, files = ray.get(task)
            self._forward_events(work, on_event)
        except RayError as error:
            if self._stopping.is_set():
                return protocol.EXIT_STOPPED, {}
            raise RuntimeError(_line(error)) from error
        finally:
            self._tasks.discard(task)
        return code, files

    def stop(self, grace: float) -> None:
        """Ask every worker to stop. Called by a signal handler, so it does not wait."""
        self._stopping.set()

        def stop() -> None:
            self._desk.stop.remote(grace)
            time.sleep(grace + 4 * POLL_SECONDS)
            for task in list(self._tasks):
                ray.cancel(task, force=True)

        threading.Thread(target=stop, daemon=True).start()

    def _forward_events(self, work: Work, on_event: OnEvent) -> None:
        for event in ray.get(self._desk.take.remote(work.name)):
            on_event(event)


class Desk:
    """A Ray actor that collects the events of workers and holds the request to stop."""

    def __init__(self) -> None:
        self._events: dict[str, list[dict[str, Any]]] = {}
        self._grace: float | None = None

    def add(self, work: str, events: Sequence[dict[str, Any]]) -> float | None:
        """Add events of a group; return the seconds in which it has to stop, None while it may continue."""
        self._events.setdefault(work, []).extend(events)
        return self._grace

    def take(self, work: str) -> list[dict[str, Any]]:
        """Return and remove the events of a group."""
        return self._events.pop(work, [])

    def stop(self, grace: float) -> None:
        """Every group has to stop within `grace` seconds."""
        self._grace = grace


def sees(token: Path) -> bool:
    """Runs on a node: whether a file exists."""
    return token.exists()


def train(work: Work, desk: Any) -> tuple[int, dict[Path, bytes]]:
    """Runs on a node: run a worker; return its exit code and the files to write on the machine that runs the grid."""
    events: deque[dict[str, Any]] = deque()
    stopping = threading.Event()
    gpus = tuple(system.gpus()) if work.slots.gpus else ()  # those that Ray assigned to this task
    executor = LocalExecutor(replace(work.slots, jobs=1, gpus=gpus, device=work.slots.device if gpus else "cpu"))
    with tempfile.TemporaryDirectory(prefix="flowbench-") as own, ThreadPoolExecutor(1) as pool:
        places = {home: home if work.shared else Path(own, str(n), home.name) for n, home in enumerate(work.records)}
        if not work.shared:
            for home, folder in places.items():
                records.write_run(folder, work.records[home])
        working = pool.submit(_work, executor, list(places.values()), stopping, events.append)
        asked = None
        while not working.done() or events:
            wait([working], POLL_SECONDS)
            new = [events.popleft() for _ in range(len(events))]
            grace = ray.get(desk.add.remote(work.name, new))
            if grace != asked:
                asked = grace
                stopping.set()
                executor.stop(grace)
        made = {} if work.shared else {home: _files(folder) for home, folder in places.items()}
    return working.result(), {home / name: content for home, files in made.items() for name, content in files.items()}


def _work(executor: LocalExecutor, folders: Sequence[Path], stopping: threading.Event, on_event: OnEvent) -> int:
    """Run a worker as soon as the cells can be locked: a worker of a lost node may still be ending."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            with ExitStack() as stack:
                abandoned = lease.abandoned(folders, stopping.wait)
                locks = [stack.enter_context(lock.hold(folder, abandoned)).descriptor for folder in folders]
                if all(records.is_done(folder) for folder in folders):
                    return 0  # the earlier node was lost after it had finished
                log = stack.enter_context((folders[0] / "log.txt").open("a", encoding="utf-8"))
                return executor.work(folders, locks, log, on_event)
        except lock.Busy:
            if time.monotonic() > deadline:
                return protocol.EXIT_BUSY
            if stopping.wait(POLL_SECONDS):
                return protocol.EXIT_STOPPED


def _files(folder: Path) -> dict[Path, bytes]:
    """The files of a run's folder, without checkpoints, by relative path; the record last, as it marks the end."""
    found = [path for path in folder.rglob("*") if path.is_file() and checkpoint.FOLDER not in path.parts]
    found.sort(key=lambda path: path.name == "run.json")
    return {path.relative_to(folder): path.read_bytes() for path in found if path.name != lock.NAME}


def _on(node: str) -> NodeAffinitySchedulingStrategy:
    """On this node and no other."""
    return NodeAffinitySchedulingStrategy(node, soft=False)


def _line(error: BaseException) -> str:
    """An error in one line; for an error of a node, that error."""
    raised = getattr(error, "cause", None)
    lines = str(raised or error).strip().splitlines() or [""]
    return f"{type(raised or error).__name__}: {lines[-1] if raised else lines[0]}"
