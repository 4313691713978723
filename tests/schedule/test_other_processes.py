"""Cells that other processes and hosts train, have taken over, or left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from fakes import make_cell, make_suite, put_run
from msgspec.structs import replace
from scripts import groups, run

from flowbench.schedule.groups import Group
from flowbench.store import lease, lock, records
from flowbench.store.load import load_results
from flowbench.worker import protocol

SUITE = make_suite(steps=40, every=20)


@pytest.fixture
def quick_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that is not renewed for a moment counts as abandoned."""
    monkeypatch.setattr(lease, "STALE", 0.3)
    monkeypatch.setattr(lease, "LOOK", 0.05)


@pytest.mark.slow
def test_worker_keeps_the_lock_after_its_parent_ended(tmp_path: Path) -> None:
    folder = tmp_path / make_cell(seed=0).path
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from flowbench.store import lock\n"
        "import subprocess\n"
        "folder = Path(sys.argv[1]); folder.mkdir(parents=True)\n"
        "with lock.hold(folder) as held:\n"
        "    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3)'], pass_fds=[held.descriptor])\n"
        "    os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    assert lock.is_held(folder)
    deadline = time.monotonic() + 30
    while lock.is_held(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not lock.is_held(folder)


def test_cell_finished_since_planning_is_not_trained(tmp_path: Path, script) -> None:
    put_run(tmp_path, make_cell(seed=0))
    _, outcomes = run(tmp_path, groups(1))
    assert outcomes[0].status == "done"
    assert not script.started


def test_cell_that_another_process_trains_is_untouched(tmp_path: Path) -> None:
    folder = put_run(tmp_path, make_cell(), "running")
    (folder / "log.txt").write_text("theirs")
    before = records.read_run(folder)
    with lock.hold(folder):
        _, outcomes = run(tmp_path, groups(1))
        assert outcomes[0].status == "busy"
        assert records.read_run(folder) == before
        assert (folder / "log.txt").read_text() == "theirs"


def test_cells_of_others_are_left_out_of_a_group(tmp_path: Path, script) -> None:
    cells = [make_cell(seed=seed) for seed in range(4)]
    put_run(tmp_path, cells[1], "done")
    put_run(tmp_path, cells[2], "running")
    with lock.hold(tmp_path / cells[2].path):
        _, outcomes = run(tmp_path, [Group(tuple(cells))])
    assert {seed: outcome.status for seed, outcome in outcomes.items()} == {0: "done", 1: "done", 2: "busy", 3: "done"}
    assert script.started == [[str(tmp_path / cells[0].path), str(tmp_path / cells[3].path)]]
    assert records.read_run(tmp_path / cells[3].path).group == [0, 3]


RACER = """
import json, os, sys, time
from pathlib import Path
from fakes import make_cell
from flowbench.plan.options import RunOptions
from flowbench.store import lease, lock, records
from flowbench.schedule.groups import Group
from flowbench.schedule.resources import Slots
from flowbench.schedule.runner import Runner

name, root, machines = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
lease.LOOK = 0.01
if machines == "two":
    lease.host = lambda: name
    lock.fcntl.flock = lambda *_: None

class Executor:
    inherits = True
    def work(self, folders, locks, log, tell):
        with (root / f"trained-by-{name}").open("a") as file:
            file.writelines(f"{folder.name}\\n" for folder in folders)
        time.sleep(0.02)
        for folder in folders:
            run = records.read_run(folder)
            run.status = "done"
            records.write_run(folder, run)
        return 0
    def stop(self, grace):
        pass

groups = [Group((make_cell(seed=seed),)) for seed in range(30)]
print("ready", flush=True)
sys.stdin.readline()
outcomes = list(Runner(root, Slots(2, "cpu", 1), lambda *_: None, RunOptions(), Executor()).run(groups))
print(json.dumps(sorted({outcome.status for outcome in outcomes})))
"""


@pytest.mark.slow
@pytest.mark.parametrize("machines", ["one", "two"])
def test_two_concurrent_runners_train_each_cell_once(tmp_path: Path, machines: str) -> None:
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tests / "support", tests.parent)))}
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, f"racer{n}-1", str(tmp_path), machines], env=environment,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(2)
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    for racer in racers:
        out, _ = racer.communicate(timeout=120)
        assert racer.returncode == 0
        assert set(json.loads(out)) <= {"done", "busy"}
    trained = [name for path in tmp_path.glob("trained-by-*") for name in path.read_text().split()]
    assert sorted(trained) == sorted(f"seed-{seed}" for seed in range(30))
    assert load_results(tmp_path).runs["status"].tolist() == ["done"] * 30


def test_cell_that_another_host_took_over_is_busy(tmp_path: Path, script) -> None:
    script.usual = (
        "(old,) = os.listdir(sys.argv[1] + '/lease'); os.remove(sys.argv[1] + '/lease/' + old)\n"
        "open(sys.argv[1] + '/lease/other-1.00', 'w')\n"
        f"record(status='running', pid=-7); os._exit({protocol.EXIT_BUSY})"
    )
    _, outcomes = run(tmp_path, groups(1), retries=2)
    assert outcomes[0].status == "busy"
    assert len(script.started) == 1
    folder = tmp_path / make_cell().path
    assert (records.read_run(folder).status, records.read_run(folder).pid) == ("running", -7)
    assert [path.name for path in (folder / "lease").iterdir()] == ["other-1.00"]


def test_cell_of_a_dead_host_is_taken_over(tmp_path: Path, quick_leases, script) -> None:
    folder = put_run(tmp_path, make_cell(), "running")
    (folder / "lease").mkdir()
    (folder / "lease" / "other-1.00").write_text("7 7")
    _, outcomes = run(tmp_path, groups(1))
    assert outcomes[0].status == "done"
    assert not (folder / "lease").exists()


class RemoteExecutor:
    """An executor whose workers inherit no locks."""

    inherits = False

    def __init__(self, work) -> None:
        self._work = work

    def work(self, folders, locks, log, tell) -> int:
        assert list(locks) == []
        return self._work(folders)

    def stop(self, grace: float) -> None:
        pass


@pytest.mark.slow
def test_worker_that_inherits_no_locks_takes_them(tmp_path: Path) -> None:
    def work(folders: list[Path]) -> int:
        command = [sys.executable, "-m", "flowbench.worker", *map(str, folders)]
        here = Path(__file__).parents[2]
        return subprocess.run(command, check=False, cwd=here, stdout=subprocess.DEVNULL).returncode

    cells = tuple(make_cell(seed=seed, suite=SUITE) for seed in (0, 1))
    _, outcomes = run(tmp_path, [Group(cells)], executor=RemoteExecutor(work))
    assert [outcome.status for outcome in outcomes.values()] == ["done", "done"]
    assert not (tmp_path / cells[0].path / "lease").exists()


def test_cell_taken_before_the_remote_worker_is_busy(tmp_path: Path) -> None:
    with ExitStack() as stack:

        def work(folders: list[Path]) -> int:
            stack.enter_context(lock.hold(folders[0]))
            return protocol.EXIT_BUSY

        _, outcomes = run(tmp_path, groups(1), executor=RemoteExecutor(work), retries=1)
        assert outcomes[0].status == "busy"
        assert records.read_run(tmp_path / make_cell().path).status == "queued"


def test_cell_of_a_lost_node_is_retried(tmp_path: Path, quick_leases) -> None:
    lost = []

    def work(folders: list[Path]) -> int:
        if not lost:  # the node takes the lease with it
            lost.append((folders[0] / "lease").mkdir())
            (folders[0] / "lease" / "node7-1.00").write_text("7 7")
            return -signal.SIGKILL
        records.write_run(folders[0], replace(records.read_run(folders[0]), status="done"))
        return 0

    _, outcomes = run(tmp_path, groups(1), executor=RemoteExecutor(work), retries=1)
    assert outcomes[0].status == "done"
    assert records.read_run(tmp_path / make_cell().path).attempts == 2
