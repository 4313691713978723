"""Worker processes on this machine; each sees at most one GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TextIO

from flowbench.schedule.resources import GpuPool, Slots
from flowbench.worker import protocol

# How many times an idle OpenMP thread spins before it sleeps. GNU OpenMP, which torch's CPU wheels for Linux use, takes
# 300,000 by default, and spinning threads then take the cores from the ones that they wait for as soon as the machine
# has other work: benchmarks/README.md has the measurements. OpenMP reads it when torch is loaded.
SPIN_COUNT = "3000"
# glibc returns freed memory to the system at once if it is a large block or at the end of the heap. So an update of SAC
# takes 140 page faults for memory that it has just freed; with these sizes in bytes it takes 8.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20)}
LOOK_SECONDS = 0.5  # between two looks whether a worker that reports nothing has ended
LEFT_SECONDS = 2.0  # how long the processes that a worker has started may outlive it


class LocalExecutor:
    """Starts `python -m flowbench.worker` for each group."""

    inherits = True

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._stopping = threading.Event()
        self._workers: set[subprocess.Popen[bytes]] = set()
        self._mutex = threading.Lock()
        self._gpu_pool = GpuPool(slots.gpus)

    def work(
        self, folders: Sequence[Path], locks: Sequence[int], log: TextIO, on_event: Callable[[dict[str, Any]], None]
    ) -> int:
        """Run a worker process to its end and return its exit code, negative for a signal."""
        with self._gpu_pool.assign() as gpu:
            return self._work(gpu, folders, locks, log, on_event)

    def _work(
        self,
        gpu: str | None,
        folders: Sequence[Path],
        locks: Sequence[int],
        log: TextIO,
        on_event: Callable[[dict[str, Any]], None],
    ) -> int:
        command = [sys.executable, "-m", "flowbench.worker", "--locked", *map(str, folders)]
        with self._mutex:
            if self._stopping.is_set():
                return protocol.EXIT_STOPPED
            # A new session, so that Ctrl-C in the terminal reaches only this process, which then stops the worker.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment(gpu),
                pass_fds=locks,
                start_new_session=True,
            )
            self._workers.add(process)
        if self._stopping.is_set():  # it may have started while the others were asked to stop
            process.terminate()
        try:
            self._listen(process, on_event)
        except BaseException:  # otherwise nobody would end the worker
            process.terminate()
            raise
        finally:
            code = process.wait()
            with self._mutex:
                self._workers.discard(process)
            left = _end_group(process.pid)
        if left:
            were = "process that outlived the worker was" if left == 1 else "processes that outlived the worker were"
            text = f"{folders[0]}: {left} {were} killed"
            print(text, file=log, flush=True)
            on_event({"event": "note", "text": text})
        return code

    @staticmethod
    def _listen(process: subprocess.Popen[bytes], on_event: Callable[[dict[str, Any]], None]) -> None:
        """Pass on the worker's events until it ends. Another process may have inherited the pipe and keep it open."""
        assert process.stdout is not None
        with process.stdout as pipe:
            for line in _lines(process, pipe.fileno()):
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # the worker was killed while writing
                on_event(event)

    def stop(self, grace: float) -> None:
        """Ask every worker to stop. Called by a signal handler, so it waits for no lock."""
        self._stopping.set()
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

    def _environment(self, gpu: str | None) -> dict[str, str]:
        environment = {**MALLOC, **os.environ, "OMP_NUM_THREADS": str(self._slots.threads)}
        if "OMP_WAIT_POLICY" not in environment:
            environment.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
        # The worker must run the code of this process, also if the package is not installed.
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        # Otherwise a folder called algos in the current directory would be imported (Python 3.11 and later).
        environment["PYTHONSAFEPATH"] = "1"
        if gpu is not None:
            if "CUDA_VISIBLE_DEVICES" not in environment:  # then GPUs are numbered as nvidia-smi does
                environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        else:  # a run planned for the CPU stays there, also if torch finds a GPU that nvidia-smi does not list
            environment["CUDA_VISIBLE_DEVICES"] = ""
        return environment


def _lines(process: subprocess.Popen[bytes], pipe: int) -> Iterator[bytes]:
    """The lines that a process writes to a pipe, until it ends."""
    rest = b""
    while True:
        ended = process.poll() is not None  # asked first: what it wrote before its end is in the pipe
        if wait([pipe], 0 if ended else LOOK_SECONDS):
            chunk = os.read(pipe, 1 << 16)
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
            if chunk:
                continue
            ended = True
        if ended:
            yield rest
            return


def _end_group(group: int) -> int:
    """Kill what is left of a worker's process group after a short time; the number of processes killed."""
    deadline = time.monotonic() + LEFT_SECONDS
    while left := _members(group):
        if time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
            return left
        time.sleep(0.02)
    return 0


def _members(group: int) -> int:
    """The number of running processes in a process group; where there is no /proc, 1 if there are any."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return 0
    if not Path("/proc/self/stat").exists():
        return 1
    count = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, its_group = path.read_bytes().rpartition(b")")[2].split()[:3]
            count += int(its_group) == group and state not in (b"Z", b"X")
    return count
