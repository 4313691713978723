"""A grid on a Ray cluster of two nodes, one of which is lost while it runs."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import make_cell, make_suite, write_algorithm

from flowbench.common.errors import UsageError
from flowbench.plan.cells import Cell
from flowbench.plan.options import RunOptions
from flowbench.schedule import executors
from flowbench.schedule.groups import Group
from flowbench.schedule.resources import share
from flowbench.schedule.runner import Runner
from flowbench.store import checkpoint, csv_rows, records

SUITE = make_suite(steps=60, every=20)
MEMORY = 80 * 2**20  # of an object store


def test_missing_ray_says_how_to_install_it(flowbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "flowbench.schedule.executors.ray", raising=False)
    status, _, err = flowbench("run", "--suite", "quick", "--algo", "td3", "--engine", "ray")
    assert status == 2
    assert err.splitlines() == [
        "flowbench: --engine ray needs Ray, which is not installed; install it with: pip install -e '.[ray]'"
    ]


@pytest.mark.parametrize(("engine", "address", "named"), [("rya", None, "ray"), ("local", "here:1", "here:1")])
def test_invalid_engine_is_rejected(engine: str, address: str | None, named: str) -> None:
    with pytest.raises(UsageError, match=named), executors.cluster(engine, address):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_unreachable_cluster_is_one_line(flowbench, address: str) -> None:
    pytest.importorskip("ray")
    status, _, err = flowbench("run", "--suite", "quick", "--algo", "td3", "--engine", "ray", "--address", address)
    assert status == 2
    (line,) = err.splitlines()
    assert line.startswith(f"flowbench: --address '{address}': no Ray cluster can be reached: ")


@pytest.fixture(scope="module")
def head() -> Iterator[Any]:
    """A Ray cluster on this machine: so far one node, with room for one cell."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    room = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}
    soon = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}  # until a node is given up
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # beside other tests, workers that give way would come to nothing
        cluster = Cluster(True, head_node_args={**room, "_system_config": soon})
        try:
            yield cluster
        finally:
            cluster.shutdown()


class Grid:
    """Cells that train to a place after a checkpoint, and on when they may, are orphaned or are asked to stop."""

    def __init__(self, folder: Path, cells: int) -> None:
        self.root = folder / "results"
        self.events: list[dict[str, Any]] = []
        self._gate, self._pids = folder / "gate", folder / "pids"
        self._pids.mkdir()
        self._happened = False
        wait = (
            f"if self.calls > 30:\n"
            f"    mine = {str(self._pids)!r} + f'/{{os.getpid()}}'\n"
            f"    open(mine, 'w').close()\n"
            f"    while not (os.path.exists({str(self._gate)!r}) or os.getppid() != parent or asked()):\n"
            f"        time.sleep(0.05)\n"
            f"    os.remove(mine)"
        )
        # A worker that was asked to stop ignores further signals.
        head = "parent = os.getppid()\ndef asked():\n    return signal.getsignal(signal.SIGTERM) == signal.SIG_IGN"
        target = write_algorithm(folder, "Waits", wait, head)
        self.cells = [make_cell("waits", target=target, suite=SUITE, seed=seed) for seed in range(cells)]

    def go_on(self) -> None:
        self._gate.touch()

    def waiting(self) -> int:
        """How many workers wait, alive and with the process that started them."""
        return sum(Path("/proc", path.name).exists() for path in self._pids.iterdir())

    def run(self, address: str, then: Callable[[], None]) -> dict[int, str]:
        """Train the cells on a cluster; once all have been evaluated, something happens. How each ended, by seed."""

        def tell(group: Group, event: dict[str, Any]) -> None:
            self.events.append(event)
            evaluated = {each["seed"] for each in self.events if each["event"] == "evaluation"}
            if len(evaluated) == len(self.cells) and not self._happened:
                self._happened = True
                then()

        self.root.mkdir()
        with executors.cluster("ray", address) as cluster:
            assert cluster is not None
            slots = share("cpu", None, cores=cluster.cores(False))
            assert (slots.jobs, slots.threads) == (len(self.cells), 1)  # there is room for all
            runner = Runner(self.root, slots, tell, RunOptions(), cluster.executor(self.root, slots))
            return {
                outcome.cell.seed: outcome.status for outcome in runner.run([Group((each,)) for each in self.cells])
            }

    def folder(self, cell: Cell) -> Path:
        return self.root / cell.path


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_cells_of_a_lost_node_are_trained_on_another(
    tmp_path: Path, head: Any, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    from flowbench.schedule.executors import ray

    if not shared:
        monkeypatch.setattr(ray.Cluster, "_sees", lambda self, folder: False)
    grid = Grid(tmp_path, 2)
    lost = head.add_node(num_cpus=1, object_store_memory=MEMORY)

    def lose() -> None:
        until(lambda: grid.waiting() == 2)
        head.remove_node(lost, allow_graceful=False)
        until(lambda: grid.waiting() == 1)  # Ray's process there ends soon after its node, and perhaps its worker
        grid.go_on()

    assert grid.run(head.address, lose) == {0: "done", 1: "done"}
    found = [records.read_run(grid.folder(cell)) for cell in grid.cells]
    assert [record.status for record in found] == ["done", "done"]
    assert sorted(record.resumed is not None for record in found) == [False, shared]
    for cell in grid.cells:
        assert csv_rows.read(grid.folder(cell) / "evals.csv")["step"].tolist() == [20, 40, 60]
        assert {path.name for path in grid.folder(cell).iterdir()} == {
            "run.json", "run.lock", "evals.csv", "train.csv", "log.txt"
        }  # fmt: skip
    again = [event["seed"] for event in grid.events if event["event"] == "evaluation" and event["step"] == 20]
    assert len(again) == (2 if shared else 3)


@pytest.mark.slow
def test_an_interrupt_reaches_the_nodes(tmp_path: Path, head: Any) -> None:
    grid = Grid(tmp_path, 1)

    def interrupt() -> None:
        until(lambda: grid.waiting() == 1)
        os.kill(os.getpid(), signal.SIGINT)

    assert grid.run(head.address, interrupt) == {0: "stopped"}
    (cell,) = grid.cells
    assert records.status(grid.folder(cell)) == "stopped"
    assert max(checkpoint.steps(grid.folder(cell))) > 40
