"""Running groups: each in its worker process; the failure of one does not affect the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fakes import make_cell, make_suite, without_clock, write_algorithm
from scripts import groups, run, run_for_events

from flowbench.plan.options import RunOptions
from flowbench.schedule.executors.local import LocalExecutor
from flowbench.schedule.groups import Group, find_due
from flowbench.schedule.resources import Slots
from flowbench.schedule.runner import Outcome, Runner
from flowbench.store import records
from flowbench.worker import protocol

SUITE = make_suite(steps=40, every=20)
CPU = Slots(jobs=2, device="cpu", threads=1)


# Real workers: one grid in which nearly all goes wrong

ENDINGS = {
    "Good": "pass",
    "Killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "Crashed": "import ctypes; ctypes.string_at(0)",
    "Raises": "raise RuntimeError('boom')",
    "Exits": "sys.exit(3)",
    "ExitsWell": "sys.exit(0)",
    "Vanishes": "os._exit(0)",
    "Prints": 'print(\'{"event": "tick", "step": 1}\' * 3); sys.stdout.flush(); os.write(1, b\'x\' * 100_000)',
}


class Recorder:
    """Records the events of a Runner's workers, and how its groups ended."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: list[tuple[str, dict[str, object]]] = []
        self.outcomes: dict[str, Outcome] = {}

    def __call__(self, group: Group, event: dict[str, object]) -> None:
        self.events.append((group.cells[0].variant.entry.name, event))

    def run(self, groups: list[Group]) -> Recorder:
        self.runner = Runner(self.root, CPU, self, RunOptions())
        for outcome in self.runner.run(groups):
            self.outcomes[outcome.cell.variant.entry.name] = outcome
        return self

    def folder(self, name: str) -> Path:
        return self.root / self.outcomes[name].cell.path


def group_of(folder: Path, name: str, update: str) -> Group:
    return Group((make_cell(name.lower(), target=write_algorithm(folder, name, update), suite=SUITE),))


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    folder = tmp_path_factory.mktemp("grid")
    # The first update of each process is of the rehearsal, before training; let what goes wrong go wrong later.
    late = {name: f"if self.calls > 5:\n    {update}" for name, update in ENDINGS.items()}
    return Recorder(folder / "results").run([group_of(folder, name, update) for name, update in late.items()])


@pytest.mark.slow
def test_other_cells_are_trained(grid: Recorder) -> None:
    assert grid.outcomes.keys() == {name.lower() for name in ENDINGS}
    assert {name for name, outcome in grid.outcomes.items() if outcome.status == "done"} >= {"good", "prints"}
    assert records.status(grid.folder("good")) == "done"
    assert not grid.runner.interrupted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("killed", "the worker was killed by SIGKILL"),
        ("crashed", "the worker was killed by SIGSEGV"),
        ("raises", "RuntimeError: boom"),
        ("exits", "3"),
        ("exitswell", ""),
        ("vanishes", ""),
    ],
)
def test_worker_that_dies_is_a_failed_cell(grid: Recorder, name: str, error: str) -> None:
    outcome = grid.outcomes[name]
    run = records.read_run(grid.folder(name))
    assert (outcome.status, run.status) == ("failed", "failed")
    assert error in outcome.error
    assert run.error == outcome.error
    assert run.ended
    assert records.status(grid.folder(name)) == "failed"
    assert (grid.folder(name) / "evals.csv").read_text().splitlines()[1].startswith("20,")


@pytest.mark.slow
def test_failure_has_its_traceback_in_its_own_log(grid: Recorder) -> None:
    log = grid.outcomes["raises"].log
    assert log == grid.folder("raises") / "log.txt"
    assert "Traceback (most recent call last)" in log.read_text()
    assert "boom" in log.read_text()
    assert "boom" not in grid.outcomes["good"].log.read_text()


@pytest.mark.slow
def test_printing_does_not_garble_the_events(grid: Recorder) -> None:
    events = [event for name, event in grid.events if name == "prints"]
    assert [event["step"] for event in events if event["event"] == "evaluation"] == [20, 40]
    assert [event["step"] for event in events if event["event"] == "tick"][-1] == 40
    log = grid.outcomes["prints"].log.read_text()
    assert log.count('{"event": "tick", "step": 1}') > 3
    assert "x" * 1000 in log
    assert without_clock(grid.folder("prints") / "evals.csv") == without_clock(grid.folder("good") / "evals.csv")


@pytest.mark.slow
def test_failed_cells_are_due_again(grid: Recorder) -> None:
    cells = [outcome.cell for outcome in grid.outcomes.values()]
    due = {cell.variant.entry.name for cell in find_due(grid.root, cells).due}
    assert due == {name.lower() for name in ENDINGS} - {"good", "prints"}


# Scripts in the place of workers


@pytest.mark.parametrize("jobs", [1, 2])
def test_each_group_has_its_process(tmp_path: Path, script, jobs: int) -> None:
    _, outcomes = run(tmp_path, groups(4), jobs)
    assert {seed: outcome.status for seed, outcome in outcomes.items()} == dict.fromkeys(range(4), "done")
    assert sorted(script.started) == sorted([str(tmp_path / make_cell(seed=seed).path)] for seed in range(4))


@pytest.mark.parametrize("jobs", [1, 2])
def test_no_more_groups_run_than_there_are_slots(tmp_path: Path, script, jobs: int) -> None:
    count = tmp_path / "count"
    count.mkdir()
    script.usual = (
        f"mine = {str(count)!r} + f'/{{os.getpid()}}'; open(mine, 'w').close(); time.sleep(0.2)\n"
        f"print(json.dumps({{'event': 'seen', 'n': len(os.listdir({str(count)!r}))}}), flush=True); os.remove(mine)"
    )
    events, _ = run_for_events(tmp_path / "results", groups(4), jobs=jobs)
    assert len(events) == 4
    assert max(event["n"] for event in events) == jobs


def test_record_is_written_before_the_worker_starts(tmp_path: Path, script) -> None:
    script.usual = "print(open(sys.argv[1] + '/run.json').read().replace(chr(10), ' '))"
    (record,), _ = run_for_events(tmp_path, groups(1))
    assert (record["status"], record["device"], record["threads"], record["group"]) == ("queued", "cpu", 1, [0])


def test_options_reach_the_record_of_the_run(tmp_path: Path, script) -> None:
    slots = Slots(1, "cuda", 3, ("7",), "tf32", per_gpu=2)
    options = RunOptions(
        device="cuda", checkpoint_every=7, keep_checkpoints=True, keep_weights=True, log=("tensorboard", "wandb"),
        timeout=90.0, auto=20, retries=3,
    )  # fmt: skip
    assert [outcome.status for outcome in Runner(tmp_path, slots, lambda *_: None, options).run(groups(1))] == ["done"]
    found = records.read_run(tmp_path / make_cell().path)
    assert (found.device, found.threads, found.precision, found.per_gpu) == ("cuda", 3, "tf32", 2)
    assert (found.checkpoint_every, found.keep_checkpoints, found.keep_weights) == (7, True, True)
    assert (found.log, found.timeout, found.auto, found.attempts) == (["tensorboard", "wandb"], 90.0, 20, 1)
    run(tmp_path, groups(2))
    found = records.read_run(tmp_path / make_cell(seed=1).path)
    assert found.checkpoint_every == make_cell().variant.protocol.every
    assert (found.keep_checkpoints, found.keep_weights, found.log, found.timeout, found.auto) == (
        False,
        False,
        [],
        None,
        None,
    )


def test_lines_that_are_not_events_are_skipped(tmp_path: Path, script) -> None:
    script.usual = "print('noise'); print('{\"event\": \"tick\"}'); print(); print('{\"event\"', end='')"
    events, outcomes = run_for_events(tmp_path, groups(1))
    assert events == [{"event": "tick"}]
    assert set(outcomes) == {0}


def test_fail_fast_starts_nothing_after_a_failure(tmp_path: Path, script) -> None:
    script.codes = {1: "sys.exit(1)"}
    runner, outcomes = run(tmp_path, groups(5), fail_fast=True)
    assert [outcomes[seed].status for seed in range(5)] == ["done", "failed", "skipped", "skipped", "skipped"]
    assert len(script.started) == 2
    assert not runner.interrupted
    assert not (tmp_path / make_cell(seed=2).path).exists()


@pytest.mark.slow
def test_fail_fast_with_two_slots_starts_nothing_after_a_failure(tmp_path: Path, script) -> None:
    script.codes = {0: "sys.exit(1)"}
    script.usual = "time.sleep(1)"
    _, outcomes = run(tmp_path, groups(6), jobs=2, fail_fast=True)
    assert outcomes[0].status == "failed"
    assert [outcomes[seed].status for seed in range(2, 6)] == ["skipped"] * 4
    assert len(script.started) == 2


def test_algorithm_that_exits_with_the_busy_code_has_failed(tmp_path, script) -> None:
    script.codes = {0: f"sys.exit({protocol.EXIT_BUSY})"}
    _, outcomes = run(tmp_path, groups(2))
    assert [outcomes[seed].status for seed in range(2)] == ["failed", "done"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 cannot leave the current folder out")
def test_worker_imports_nothing_from_the_current_folder(tmp_path: Path, script, monkeypatch) -> None:
    (tmp_path / "algos").mkdir()
    (tmp_path / "algos" / "__init__.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    real = LocalExecutor(CPU)._environment(None)
    code = "import algos; print(algos.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code], env=real, capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout
    assert not found.startswith(str(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("jobs", [1, 2])
def test_signal_stops_running_groups_and_skips_the_rest(tmp_path: Path, script, number: int, jobs: int) -> None:
    script.usual = (
        f"signal.signal(signal.SIGTERM, lambda *_: os._exit({protocol.EXIT_STOPPED}))\n"
        "print(json.dumps({'event': 'ready'}), flush=True); time.sleep(60)"
    )
    ready: list[object] = []

    def on_event(group: Group, event: dict[str, object]) -> None:
        ready.append(event)
        if len(ready) == jobs:
            os.kill(os.getpid(), number)

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    runner, outcomes = run(tmp_path, groups(5), jobs, on_event=on_event)
    assert runner.interrupted
    statuses = [outcomes[seed].status for seed in range(5)]
    assert statuses.count("stopped") == jobs
    assert statuses.count("skipped") == 5 - jobs
    assert len(script.started) == jobs
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_worker_that_does_not_stop_is_killed(tmp_path: Path, script, monkeypatch) -> None:
    monkeypatch.setattr("flowbench.schedule.runner.GRACE_SECONDS", 0.3)
    script.usual = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(json.dumps({'event': 'ready'}), flush=True); time.sleep(60)"
    )
    runner, outcomes = run(tmp_path, groups(1), on_event=lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert (runner.interrupted, outcomes[0].status) == (True, "stopped")
    assert records.status(tmp_path / make_cell().path) == "stopped"


def test_workers_do_not_get_ctrl_c_from_the_terminal(tmp_path: Path, script) -> None:
    script.usual = "print(json.dumps({'event': os.getsid(0) == os.getpid()}))"
    events, _ = run_for_events(tmp_path, groups(1))
    assert events == [{"event": True}]


def test_runner_works_outside_the_main_thread(tmp_path: Path, script) -> None:
    found: list[dict[int, Outcome]] = []
    thread = threading.Thread(target=lambda: found.append(run(tmp_path, groups(2))[1]))
    thread.start()
    thread.join(60)
    assert [outcome.status for outcome in found[0].values()] == ["done", "done"]


def test_workers_find_the_code_that_this_process_runs(tmp_path: Path, script, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "extra"), ""])
    script.usual = "print(json.dumps({'event': os.environ['PYTHONPATH'].split(os.pathsep)}))"
    (event,), _ = run_for_events(tmp_path, groups(1))
    assert event["event"] == [path or os.getcwd() for path in sys.path]


def test_one_cell_of_a_group_fails(tmp_path: Path, script) -> None:
    script.codes = {
        0: "for folder, status in zip(sys.argv[1:], ('done', 'failed')):\n"
        "    record(folder, status=status, error='it diverged')\n"
        "sys.exit(1)"
    }
    _, outcomes = run(tmp_path, [Group((make_cell(seed=0), make_cell(seed=1)))])
    assert (outcomes[0].status, outcomes[1].status) == ("done", "failed")
    assert outcomes[1].error == "it diverged"
