"""Worker processes on this machine, each seeing one GPU at most."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from flowbench.schedule.resources import Cards, Slots
from flowbench.worker import protocol


class LocalExecutor:
    """Starts `python -m flowbench.worker` for each group."""

    inherits = True

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._stopping = threading.Event()
        self._workers: set[subprocess.Popen[str]] = set()
        self._mutex = threading.Lock()
        self._cards = Cards(slots.gpus)

    def work(
        self, folders: Sequence[Path], locks: Sequence[int], log: TextIO, tell: Callable[[dict[str, Any]], None]
    ) -> int:
        """Run a worker process to its end; its exit status, negative for a signal."""
        with self._cards.lend() as gpu:
            return self._work(gpu, folders, locks, log, tell)

    def _work(
        self,
        gpu: str | None,
        folders: Sequence[Path],
        locks: Sequence[int],
        log: TextIO,
        tell: Callable[[dict[str, Any]], None],
    ) -> int:
        command = [sys.executable, "-m", "flowbench.worker", "--locked", *map(str, folders)]
        with self._mutex:
            if self._stopping.is_set():
                return protocol.EXIT_STOPPED
            # In a session of its own, so that Ctrl-C reaches it through us, once.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment(gpu),
                pass_fds=locks,
                start_new_session=True,
            )
            self._workers.add(process)
        if self._stopping.is_set():  # it may have been started while the others were being asked to stop
            process.terminate()
        try:
            self._listen(process, tell)
        except BaseException:  # nobody would hear of it any more, nor end it
            process.terminate()
            raise
        finally:
            code = process.wait()
            with self._mutex:
                self._workers.discard(process)
        return code

    @staticmethod
    def _listen(process: subprocess.Popen[str], tell: Callable[[dict[str, Any]], None]) -> None:
        """Tell what the worker tells, until it ends."""
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                try:
                    event = json.loads(line)
                except json.JSONDecodeError:
                    continue  # cut off by a kill
                tell(event)

    def stop(self, grace: float) -> None:
        """Ask every worker to stop. A signal handler calls it: it waits for no lock."""
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
        environment = {**os.environ, "OMP_NUM_THREADS": str(self._slots.threads)}
        # Also without a package installed, the worker finds the code that this process runs.
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        # And no other: without this a folder called algos where the user stands would be imported (Python 3.11).
        environment["PYTHONSAFEPATH"] = "1"
        if gpu is not None:
            if "CUDA_VISIBLE_DEVICES" not in environment:  # then the GPU is a number of nvidia-smi's, which counts so
                environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        else:  # what was planned for the CPU stays there, also where torch finds a GPU that nvidia-smi does not list
            environment["CUDA_VISIBLE_DEVICES"] = ""
        return environment
