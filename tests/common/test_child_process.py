"""Child processes that leave processes of their own behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from flowbench.common.child_process import Child
from flowbench.common.errors import Killed
from flowbench.train.vecenv import EnvironmentFault

PATIENCE = 30.0  # seconds in which the end of a child has to be noticed


def starts_a_simulator(link, path: str, end: str) -> None:
    """Fork a process that inherits the pipes, as environments do that start a simulator; then end."""
    link.done()
    link.wait()
    simulator = os.fork()
    if not simulator:
        Path(path).write_text(str(os.getpid()))
        time.sleep(300)
        os._exit(0)
    while not (os.path.exists(path) and Path(path).read_text()):
        time.sleep(0.01)
    if end == "signals first":
        link.done()
    os.kill(os.getpid(), signal.SIGKILL) if end != "exits" else os._exit(3)


@pytest.mark.parametrize(
    ("end", "said"),
    [("exits", "ended unexpectedly with exit status 3"), ("is killed", "SIGKILL"), ("signals first", "SIGKILL")],
)
def test_end_of_a_child_is_noticed_although_its_pipe_stays_open(tmp_path: Path, end: str, said: str) -> None:
    path = tmp_path / "simulator.pid"
    child = Child("a child", starts_a_simulator, str(path), end, fault=EnvironmentFault)
    found: list[BaseException | None] = []

    def wait() -> None:
        try:
            child.wait()
        except EnvironmentFault as error:
            found.append(error)
        else:
            found.append(None)

    def waited() -> BaseException | None:
        count = len(found)
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        return found[-1] if len(found) > count else pytest.fail("the end of the child was not noticed")

    try:
        assert waited() is None
        child.signal()
        if end == "signals first":
            assert waited() is None  # what it signalled before its end is not lost
        error = waited()
        assert said in str(error)
        assert isinstance(error.__cause__, Killed) == (end != "exits")
    finally:
        os.kill(int(path.read_text()), signal.SIGKILL)
        child.close()
