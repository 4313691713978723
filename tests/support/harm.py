"""What the tests of faults share: grids to disturb, and ways to disturb them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import without_clock

from flowbench.store import checkpoint, lock, records
from flowbench.store.csv_rows import TABLES

INSTANTS = int(os.environ.get("FLOWBENCH_FAULT_INSTANTS", "4"))  # random instants of a kill; more for a long form


class Zygote:
    """Starts command lines; see zygote.py."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zygote.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def start(self, arguments: list[str], log: Path, largest_file: int = 0, jumping_clock: bool = False) -> int:
        """The process id of a `flowbench` with these arguments, whose output goes to a file."""
        return self._ask(arguments=arguments, log=str(log), largest_file=largest_file, jumping_clock=jumping_clock)

    def wait(self, pid: int) -> int:
        """The exit status of a process started here, negative for a signal."""
        return self._ask(wait=pid)

    def close(self) -> None:
        self._process.communicate()

    def _ask(self, **request: object) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


class Grid:
    """A grid of Pendulum runs in a results folder: four seeds, in two stacked groups at once, or as `options` say."""

    def __init__(self, zygote: Zygote, root: Path, suite: str, *options: str) -> None:
        self._zygote, self.root, self.log = zygote, root, root.with_suffix(".log")
        self._arguments = [
            "run", "--suite", suite, "--algo", "td3", "--seeds", "4", "--stack", "2", "--jobs", "2", "--device", "cpu",
            "--set", "hidden=8", "--set", "batch_size=4", "--checkpoint-every", "50", "--results", str(root), *options,
        ]  # fmt: skip

    def start(self, *options: str, **faults: int) -> int:
        """The process id of a command that trains it."""
        return self._zygote.start([*self._arguments, *options], self.log, **faults)

    def wait(self, pid: int) -> int:
        return self._zygote.wait(pid)

    def run(self, *options: str, **faults: int) -> int:
        """Train it to the end; the exit code."""
        return self.wait(self.start(*options, **faults))

    @property
    def folders(self) -> list[Path]:
        return sorted(records.folders(self.root))

    @property
    def printed(self) -> str:
        """What its commands printed."""
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def saved(self) -> int:
        """A number that grows with every checkpoint and every finished cell."""
        return sum(max(checkpoint.steps(folder), default=0) for folder in self.folders) + 10_000 * self.done()

    def done(self) -> int:
        return sum(records.is_done(folder) for folder in self.folders)

    def workers(self) -> list[int]:
        """The process ids of the workers that train."""
        found = [records.read_if_valid(folder) for folder in self.folders if lock.is_held(folder)]
        return sorted({record.pid for record in found if record and record.status == "running" and record.pid})

    def wait_for_workers(self) -> None:
        """Wait until no worker trains: one whose parent was killed ends by itself."""
        until(lambda: not any(lock.is_held(folder) for folder in self.folders))

    def tables(self) -> dict[str, list[str]]:
        """The rows of every run, less their wall-clock."""
        return {folder.name: [without_clock(folder / table) for table in TABLES] for folder in self.folders}


def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait for something to come true; fails after too long a time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.002)


def kill(pid: int) -> bool:
    """Kill a process; whether it was still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


APART = ("--seeds", "2", "--stack", "1")  # a cell that starts again, trained alone, gives the same numbers


def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """A disk mounted at a folder, if this user may mount one."""
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("no disk may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
