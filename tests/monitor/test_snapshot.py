"""What a running grid is at, read from its folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fakes import make_cell, make_suite, put_run

from flowbench.common.errors import UsageError
from flowbench.monitor.snapshot import Watcher
from flowbench.plan.cells import Cell
from flowbench.store import lock, records

SUITE = make_suite(steps=1000)


def cell(seed: int = 0, algo: str = "td3") -> Cell:
    return make_cell(algo, seed=seed, suite=SUITE)


def train(folder: Path, *points: tuple[int, float, float]) -> None:
    """Rows of episodes: step, seconds, return."""
    lines = "".join(f"{step},{seconds},{value}\n" for step, seconds, value in points)
    (folder / "train.csv").write_text("step,seconds,return\n" + lines)


def evaluate(folder: Path, *points: tuple[int, float, float]) -> None:
    """Rows of evaluations: step, seconds, mean."""
    lines = "".join(f"{step},{seconds},{value}\n" for step, seconds, value in points)
    (folder / "evals.csv").write_text("step,seconds,mean\n" + lines)


def test_a_running_cell(tmp_path: Path) -> None:
    folder = put_run(tmp_path, cell(3), "running", config={"random_steps": 100})
    train(folder, (50, 0.1, 1.0), (100, 1.0, 1.0), (200, 11.0, 2.0), (300, 21.0, 3.0))
    evaluate(folder, (100, 1.0, 5.0), (200, 11.0, 7.0))
    with lock.hold(folder):
        (found,) = Watcher(tmp_path).look().running
    assert (found.task, found.algo, found.seed) == ("Pendulum-v1", "td3", 3)
    assert (found.step, found.steps, found.last, found.curve) == (300, 1000, 7.0, (5.0, 7.0))
    assert found.speed == pytest.approx(10.0)  # without the random steps
    assert found.left == pytest.approx(70.0)


def test_a_cell_that_has_just_begun(tmp_path: Path) -> None:
    folder = put_run(tmp_path, cell(), "queued")
    with lock.hold(folder):
        snapshot = Watcher(tmp_path).look()
    (found,) = snapshot.running
    assert (found.step, found.speed, found.last, found.curve, found.left) == (0, None, None, (), None)
    assert snapshot.left is None


def test_speed_from_evaluations_if_no_episode_has_ended(tmp_path: Path) -> None:
    folder = put_run(tmp_path, cell(), "running", config={})
    evaluate(folder, (100, 10.0, 1.0), (300, 20.0, 2.0))
    with lock.hold(folder):
        (found,) = Watcher(tmp_path).look().running
    assert (found.step, found.speed) == (300, 20.0)


def test_cells_are_counted_by_status(tmp_path: Path) -> None:
    for seed, status in enumerate(["done", "failed", "queued", "running", "stopped"]):
        put_run(tmp_path, cell(seed), status)
    snapshot = Watcher(tmp_path).look()
    assert snapshot.counts == {"done": 1, "failed": 1, "queued": 1, "stopped": 2}  # nobody holds what says it runs
    assert snapshot.share == pytest.approx(1 / 5)
    assert not snapshot.finished


def test_a_grid_is_finished_when_nothing_runs_or_waits(tmp_path: Path) -> None:
    assert not Watcher(tmp_path).look().finished
    put_run(tmp_path, cell(0), "done")
    put_run(tmp_path, cell(1), "failed")
    assert Watcher(tmp_path).look().finished


def test_published_runs_do_not_count(tmp_path: Path) -> None:
    put_run(tmp_path, cell(), "done", published={"format": "csv"})
    assert Watcher(tmp_path).look().counts == {}


def test_failures_are_one_line_each_latest_first(tmp_path: Path) -> None:
    put_run(tmp_path, cell(0), "failed", error="ValueError: one\n two", ended="2026-01-01T10:00:00+00:00")
    put_run(tmp_path, cell(1), "failed", error="OSError: three", ended="2026-01-01T11:00:00+00:00")
    put_run(tmp_path, cell(2), "failed")
    found = Watcher(tmp_path).look().failures
    assert [(each.seed, each.error) for each in found] == [
        (1, "OSError: three"), (0, "ValueError: one two"), (2, "no error was recorded")
    ]  # fmt: skip


def test_time_left_with_as_many_groups_at_once_as_now(tmp_path: Path) -> None:
    folder = put_run(tmp_path, cell(0), "running", config={})
    train(folder, (100, 10.0, 0.0), (200, 20.0, 0.0))  # 80 s to go
    put_run(tmp_path, cell(1), "queued")
    put_run(tmp_path, cell(2), "queued")
    with lock.hold(folder):
        assert Watcher(tmp_path).look().left == pytest.approx(80 + 100 + 100)
        other = put_run(tmp_path, cell(3), "running", config={})
        train(other, (100, 10.0, 0.0), (900, 90.0, 0.0))  # 10 s to go
        with lock.hold(other):
            assert Watcher(tmp_path).look().left == pytest.approx(80 + 100)
    assert Watcher(tmp_path).look().left is None  # nobody trains


def test_seeds_of_one_group_need_its_time_once(tmp_path: Path) -> None:
    folder = put_run(tmp_path, cell(0), "running", config={})
    train(folder, (100, 10.0, 0.0), (200, 20.0, 0.0))
    put_run(tmp_path, cell(1), "queued", group=[1, 2])
    put_run(tmp_path, cell(2), "queued", group=[1, 2])
    with lock.hold(folder):
        assert Watcher(tmp_path).look().left == pytest.approx(80 + 100)


def test_time_of_an_algorithm_from_its_finished_runs(tmp_path: Path) -> None:
    folder = put_run(tmp_path, cell(0, "td3"), "running", config={})
    train(folder, (100, 10.0, 0.0), (200, 20.0, 0.0))
    put_run(tmp_path, cell(1, "sac"), "done", seconds=3000)
    put_run(tmp_path, cell(2, "sac"), "queued")
    with lock.hold(folder):
        assert Watcher(tmp_path).look().left == pytest.approx(80 + 3000)


def test_finished_runs_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(20):
        put_run(tmp_path, cell(seed), "done")
    folder = put_run(tmp_path, cell(20), "running")
    put_run(tmp_path, cell(21), "done", published={"format": "csv"})
    watcher = Watcher(tmp_path)
    watcher.look()
    read: list[Path] = []
    read_placed = records.read_placed
    monkeypatch.setattr(records, "read_placed", lambda folder: read.append(folder) or read_placed(folder))
    assert watcher.look().counts == {"done": 20, "stopped": 1}
    assert read == []
    put_run(tmp_path, cell(20), "failed")
    assert watcher.look().counts == {"done": 20, "failed": 1}
    assert read == [folder]


def test_run_that_ends_while_it_is_read_is_not_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_run(tmp_path, cell(), "running")
    is_held = lock.is_held

    def ends(folder: Path) -> bool:
        put_run(tmp_path, cell(), "done")
        return is_held(folder)

    monkeypatch.setattr(lock, "is_held", ends)
    assert Watcher(tmp_path).look().counts == {"done": 1}


def test_folders_come_and_go(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path)
    assert watcher.look().counts == {}
    folder = put_run(tmp_path, cell(), "running")
    train(folder, (100, 10.0, 0.0))
    with lock.hold(folder):
        assert watcher.look().running[0].step == 100
        train(folder)  # begun anew
        assert watcher.look().running[0].step == 0
        (folder / "train.csv").unlink()
        assert watcher.look().running[0].step == 0
    shutil.rmtree(tmp_path)
    assert watcher.look().counts == {}


def test_folder_removed_while_it_is_read_is_not_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_run(tmp_path, cell(0), "done")
    gone = put_run(tmp_path, cell(1), "done")
    read_placed = records.read_placed

    def vanishes(folder: Path) -> dict[str, object]:
        if folder == gone:
            shutil.rmtree(folder)
        return read_placed(folder)

    monkeypatch.setattr(records, "read_placed", vanishes)
    snapshot = Watcher(tmp_path).look()
    assert (snapshot.counts, snapshot.problems) == ({"done": 1}, [])


def test_unreadable_run_is_reported(tmp_path: Path) -> None:
    put_run(tmp_path, cell(0), "done")
    broken = put_run(tmp_path, cell(1), "done") / "run.json"
    running = put_run(tmp_path, cell(2), "running")
    (running / "train.csv").write_text("step,step\n1,2\n")
    watcher = Watcher(tmp_path)
    good = broken.read_text()
    broken.write_text(good[:50])
    with lock.hold(running):
        snapshot = watcher.look()
    assert snapshot.counts == {"done": 1, "running": 1}
    assert [problem.partition(": ")[0] for problem in snapshot.problems] == [str(broken), str(running / "train.csv")]
    broken.write_text(good)
    assert watcher.look().counts["done"] == 2


@pytest.mark.parametrize("record", [{"group": None}, {"seconds": -1.0}, {"config": {"random_steps": "few"}}])
def test_unusual_records(tmp_path: Path, record: dict[str, object]) -> None:
    folder = put_run(tmp_path, cell(0), "running", **record)
    train(folder, (100, 10.0, float("nan")), (200, 20.0, float("inf")))
    put_run(tmp_path, cell(1), "done", **record)
    put_run(tmp_path, cell(2), "queued", **record)
    with lock.hold(folder):
        assert Watcher(tmp_path).look().running[0].step == 200


def test_suites_and_algorithms_are_selected(tmp_path: Path) -> None:
    assert Watcher(tmp_path, ["mini"], ["sac"]).look(check=True).counts == {}  # which are waited for
    put_run(tmp_path, cell(0, "td3"), "done")
    put_run(tmp_path, cell(0, "sac"), "failed")
    assert Watcher(tmp_path, ["mini"], ["sac"]).look(check=True).counts == {"failed": 1}
    with pytest.raises(UsageError, match="'scr'; did you mean 'sac'"):
        Watcher(tmp_path, [], ["scr"]).look(check=True)
    with pytest.raises(UsageError, match="no results folder"):
        Watcher(tmp_path / "none").look(check=True)


def test_look_changes_no_file(tmp_path: Path) -> None:
    folder = put_run(tmp_path, cell(), "running")
    train(folder, (100, 10.0, 0.0))
    with lock.hold(folder):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        Watcher(tmp_path).look()
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert json.loads((folder / "run.json").read_text())["status"] == "running"
