"""Processes and threads that outlive their worker: they keep neither its slot nor its cell."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from fakes import make_cell, make_suite, write_algorithm
from scripts import groups, run_for_events

from flowbench.schedule.executors import local
from flowbench.schedule.groups import Group
from flowbench.schedule.resources import Slots
from flowbench.store import lock, records

PATIENCE = 60.0  # seconds in which a grid of two short cells has to end

# Each leaves a process that has the worker's pipes and locks, and writes its id to a file.
LEAVE = {
    "fork": "child = os.fork()",
    "fork in a session of its own": "child = os.fork()\nif not child:\n    os.setsid()",
}
SLEEP = "\nif not child:\n    open({path!r}, 'w').write(str(os.getpid()))\n    time.sleep(600)\n    os._exit(0)\n"
WAIT = "while not os.path.exists({path!r}) or not open({path!r}).read():\n    time.sleep(0.01)\n"


def finished(root: Path, cells: list[Group], left: Path):
    """The events and outcomes of a grid that has to end by itself, whether its children live, and the held locks."""
    found: list[tuple] = []
    thread = threading.Thread(target=lambda: found.append(run_for_events(root, cells)), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    ended = bool(found)
    locked = [folder for folder in records.folders(root) if lock.is_held(folder)]
    alive = False
    for path in left.glob("*.pid"):
        with suppress(ProcessLookupError):
            os.kill(int(path.read_text()), 0)
            alive = not is_zombie(int(path.read_text()))
            os.kill(int(path.read_text()), signal.SIGKILL)
    thread.join(PATIENCE)
    assert ended, "the grid did not end by itself"
    return (*found[0], alive, locked)


def is_zombie(pid: int) -> bool:
    """Whether a process has ended, though nobody has asked for its status yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("kind", LEAVE)
@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), signal.SIGKILL)"], ids=["ends", "is killed"])
def test_process_that_outlives_its_worker_keeps_no_slot(tmp_path: Path, script, monkeypatch, kind: str, end: str):
    monkeypatch.setattr(local, "LEFT_SECONDS", 0.2)
    path = str(tmp_path / "child.pid")
    event = "print(json.dumps({'event': 'last'}), flush=True)\n"
    script.codes = {0: LEAVE[kind] + SLEEP.format(path=path) + WAIT.format(path=path) + event + end}
    events, outcomes, alive, locked = finished(tmp_path / "results", groups(2), tmp_path)
    assert [outcomes[seed].status for seed in range(2)] == ["failed" if end else "done", "done"]
    assert {"event": "last"} in events  # what the worker reported before it ended
    folder = tmp_path / "results" / make_cell(seed=0).path
    assert records.status(folder) == ("failed" if end else "done")
    assert not locked  # whoever inherited its lock
    if "session" not in kind:
        assert not alive
        (note,) = [event["text"] for event in events if event["event"] == "note"]
        assert note == f"{folder}: 1 process that outlived the worker was killed"
        assert note in (folder / "log.txt").read_text()


def test_worker_that_leaves_nothing_gives_no_note(tmp_path: Path, script) -> None:
    script.usual = "print(json.dumps({'event': 'last'}))"
    events, outcomes, _, _ = finished(tmp_path / "results", groups(2), tmp_path)
    assert events == [{"event": "last"}] * 2
    assert {outcome.status for outcome in outcomes.values()} == {"done"}


def test_what_outlives_a_worker_is_killed_also_if_an_event_cannot_be_reported(tmp_path: Path, script, monkeypatch):
    monkeypatch.setattr(local, "LEFT_SECONDS", 0.2)
    path = str(tmp_path / "child.pid")
    event = "print(json.dumps({'event': 'last'}), flush=True)\n"
    script.usual = LEAVE["fork"] + SLEEP.format(path=path) + WAIT.format(path=path) + event

    def report(event: object) -> None:
        raise OSError("no space left")

    executor = local.LocalExecutor(Slots(jobs=1, device="cpu", threads=1))
    with (tmp_path / "log.txt").open("w") as log, pytest.raises(OSError, match="no space left"):
        executor.work([tmp_path / "seed-0"], [], log, report)
    deadline = time.monotonic() + PATIENCE  # it is killed, but perhaps it has not ended yet
    while not is_zombie(int(Path(path).read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)


LEFT = {
    "Thread": "import threading; threading.Thread(target=time.sleep, args=(600,)).start()",
    "Process": "import multiprocessing as m; m.get_context('fork').Process(target=time.sleep, args=(600,)).start()",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LEFT)
def test_worker_ends_although_an_algorithm_has_started_something(tmp_path: Path, name: str) -> None:
    spec = write_algorithm(tmp_path, name, f"if self.calls == 10:\n    {LEFT[name]}")
    cell = make_cell(name.lower(), target=spec, suite=make_suite(steps=40, every=20))
    _, outcomes, _, _ = finished(tmp_path / "results", [Group((cell,))], tmp_path)
    (outcome,) = outcomes.values()
    assert outcome.status == "done"
    assert "still running when the worker ended" in outcome.log.read_text()
