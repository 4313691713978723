"""Running groups: one's failure is nobody else's."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from fakes import ToyConfig, make_cell, make_suite, without_clock, write_algorithm
from msgspec.structs import replace

from flowbench.schedule.executors import local
from flowbench.schedule.executors.local import LocalExecutor
from flowbench.schedule.groups import Group, enqueue, find_due
from flowbench.schedule.resources import Slots
from flowbench.schedule.runner import Outcome, Runner
from flowbench.store import lease, lock, records
from flowbench.store.load import load_results
from flowbench.store.records import RunRecord
from flowbench.worker import protocol

SUITE = make_suite(steps=40, every=20)
CPU = Slots(jobs=2, device="cpu", threads=1)


def leave(root: Path, cell, status: str = "done") -> Path:
    folder = root / cell.path
    records.write_run(folder, replace(RunRecord.of(cell, [cell.seed]), status=status))
    return folder


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


class Told:
    """What a Runner told, and how its groups ended."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: list[tuple[str, dict[str, object]]] = []
        self.outcomes: dict[str, Outcome] = {}

    def __call__(self, group: Group, event: dict[str, object]) -> None:
        self.events.append((group.cells[0].variant.entry.name, event))

    def run(self, groups: list[Group], slots: Slots = CPU, **options: bool) -> Told:
        self.runner = Runner(self.root, slots, self, **options)
        for outcome in self.runner.run(groups):
            self.outcomes[outcome.cell.variant.entry.name] = outcome
        return self

    def folder(self, name: str) -> Path:
        return self.root / self.outcomes[name].cell.path


def group_of(folder: Path, name: str, update: str) -> Group:
    return Group((make_cell(name.lower(), target=write_algorithm(folder, name, update), suite=SUITE),))


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("grid")
    # The first update of each process is of the rehearsal, before training; let what goes wrong go wrong later.
    late = {name: f"if self.calls > 5:\n    {update}" for name, update in ENDINGS.items()}
    return Told(folder / "results").run([group_of(folder, name, update) for name, update in late.items()])


def test_the_others_are_trained(grid: Told) -> None:
    assert grid.outcomes.keys() == {name.lower() for name in ENDINGS}
    assert {name for name, outcome in grid.outcomes.items() if outcome.status == "done"} >= {"good", "prints"}
    assert records.status(grid.folder("good")) == "done"
    assert not grid.runner.interrupted


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
def test_a_worker_that_comes_to_grief_is_a_failed_cell_and_nothing_more(grid: Told, name: str, error: str) -> None:
    outcome = grid.outcomes[name]
    run = records.read_run(grid.folder(name))
    assert (outcome.status, run.status) == ("failed", "failed")
    assert error in outcome.error
    assert run.error == outcome.error
    assert run.ended
    assert records.status(grid.folder(name)) == "failed"
    assert (grid.folder(name) / "evals.csv").read_text().splitlines()[1].startswith("20,")


def test_a_failure_has_its_traceback_in_its_own_log(grid: Told) -> None:
    log = grid.outcomes["raises"].log
    assert log == grid.folder("raises") / "log.txt"
    assert "Traceback (most recent call last)" in log.read_text()
    assert "boom" in log.read_text()
    assert "boom" not in grid.outcomes["good"].log.read_text()


def test_printing_does_not_garble_the_events(grid: Told) -> None:
    events = [event for name, event in grid.events if name == "prints"]
    assert [event["step"] for event in events if event["event"] == "evaluation"] == [20, 40]
    assert [event["step"] for event in events if event["event"] == "tick"][-1] == 40
    log = grid.outcomes["prints"].log.read_text()
    assert log.count('{"event": "tick", "step": 1}') > 3
    assert "x" * 1000 in log
    assert without_clock(grid.folder("prints") / "evals.csv") == without_clock(grid.folder("good") / "evals.csv")


def test_failed_cells_are_due_again_and_the_good_ones_are_not(grid: Told) -> None:
    cells = [outcome.cell for outcome in grid.outcomes.values()]
    due = {cell.variant.entry.name for cell in find_due(grid.root, cells).due}
    assert due == {name.lower() for name in ENDINGS} - {"good", "prints"}


# Workers that are not real: scripts in their place, which need no torch


FINISH = """
for folder in sys.argv[1:]:
    with open(folder + '/run.json') as file:
        run = json.load(file)
    with open(folder + '/run.json', 'w') as file:
        json.dump({**run, 'status': 'done'}, file)
"""


class Script:
    """Stands in for the worker: a piece of Python with the folders as its arguments, after which the run is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[list[str]] = []
        self.codes: dict[int, str] = {}
        self.usual = "pass"
        real = subprocess.Popen

        def popen(command, **options):
            if command[1:4] != ["-m", "flowbench.worker", "--locked"]:
                return real(command, **options)
            folders = command[4:]
            self.started.append(folders)
            seed = int(Path(folders[0]).name.removeprefix("seed-"))
            code = "import json, os, signal, sys, time\n" + self.codes.get(seed, self.usual) + FINISH
            return real([sys.executable, "-c", code, *folders], **options)

        monkeypatch.setattr(local.subprocess, "Popen", popen)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    return Script(monkeypatch)


def groups(count: int) -> list[Group]:
    return [Group((make_cell(seed=seed),)) for seed in range(count)]


def run(root: Path, groups: list[Group], jobs: int = 1, tell=lambda *_: None, **options: bool):
    runner = Runner(root, Slots(jobs, "cpu", 1), tell, **options)
    return runner, {outcome.cell.seed: outcome for outcome in runner.run(groups)}


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_group_has_its_process(tmp_path: Path, script: Script, jobs: int) -> None:
    _, outcomes = run(tmp_path, groups(4), jobs)
    assert {seed: outcome.status for seed, outcome in outcomes.items()} == dict.fromkeys(range(4), "done")
    assert sorted(script.started) == sorted([str(tmp_path / make_cell(seed=seed).path)] for seed in range(4))


@pytest.mark.parametrize("jobs", [1, 2])
def test_no_more_at_once_than_there_are_slots(tmp_path: Path, script: Script, jobs: int) -> None:
    count = tmp_path / "count"
    count.mkdir()
    script.usual = (
        f"mine = {str(count)!r} + f'/{{os.getpid()}}'; open(mine, 'w').close(); time.sleep(0.2)\n"
        f"print(json.dumps({{'event': 'seen', 'n': len(os.listdir({str(count)!r}))}}), flush=True); os.remove(mine)"
    )
    seen: list[int] = []
    run(tmp_path / "results", groups(4), jobs, tell=lambda group, event: seen.append(event["n"]))
    assert len(seen) == 4
    assert max(seen) == jobs


def test_a_record_is_written_before_its_worker_starts(tmp_path: Path, script: Script) -> None:
    script.usual = "print(open(sys.argv[1] + '/run.json').read().replace(chr(10), ' '))"
    told: list[dict[str, object]] = []
    run(tmp_path, groups(1), tell=lambda group, event: told.append(event))
    (record,) = told
    assert (record["status"], record["device"], record["threads"], record["group"]) == ("queued", "cpu", 1, [0])


def test_lines_that_are_no_events_are_passed_over(tmp_path: Path, script: Script) -> None:
    script.usual = "print('noise'); print('{\"event\": \"tick\"}'); print(); print('{\"event\"', end='')"
    told: list[dict[str, object]] = []
    _, outcomes = run(tmp_path, groups(1), tell=lambda group, event: told.append(event))
    assert told == [{"event": "tick"}]
    assert set(outcomes) == {0}


def test_after_a_failure_fail_fast_starts_nothing_more(tmp_path: Path, script: Script) -> None:
    script.codes = {1: "sys.exit(1)"}
    runner, outcomes = run(tmp_path, groups(5), fail_fast=True)
    assert [outcomes[seed].status for seed in range(5)] == ["done", "failed", "skipped", "skipped", "skipped"]
    assert len(script.started) == 2
    assert not runner.interrupted
    assert not (tmp_path / make_cell(seed=2).path).exists()


def test_without_fail_fast_a_failure_ends_nothing(tmp_path: Path, script: Script) -> None:
    script.codes = {0: "sys.exit(1)"}
    _, outcomes = run(tmp_path, groups(3))
    assert [outcomes[seed].status for seed in range(3)] == ["failed", "done", "done"]


def test_fail_fast_side_by_side_starts_nothing_more(tmp_path: Path, script: Script) -> None:
    script.codes = {0: "sys.exit(1)"}
    script.usual = "time.sleep(1)"
    _, outcomes = run(tmp_path, groups(6), jobs=2, fail_fast=True)
    assert outcomes[0].status == "failed"
    assert [outcomes[seed].status for seed in range(2, 6)] == ["skipped"] * 4
    assert len(script.started) == 2


def test_the_exit_status_of_a_busy_worker_is_no_excuse_for_an_algorithm_that_gives_it(tmp_path, script) -> None:
    script.codes = {0: f"sys.exit({protocol.EXIT_BUSY})"}
    _, outcomes = run(tmp_path, groups(2))
    assert [outcomes[seed].status for seed in range(2)] == ["failed", "done"]


def test_a_worker_holds_its_cells_lock_when_its_parent_is_gone(tmp_path: Path) -> None:
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


def test_a_cell_that_was_finished_meanwhile_is_not_trained_again(tmp_path: Path, script: Script) -> None:
    leave(tmp_path, make_cell(seed=0))
    _, outcomes = run(tmp_path, groups(1))
    assert outcomes[0].status == "done"
    assert not script.started


def test_a_cell_that_somebody_else_began_meanwhile_keeps_its_record_and_log(tmp_path: Path) -> None:
    folder = leave(tmp_path, make_cell(), "running")
    (folder / "log.txt").write_text("theirs")
    before = records.read_run(folder)
    with lock.hold(folder):
        _, outcomes = run(tmp_path, groups(1))
        assert outcomes[0].status == "busy"
        assert records.read_run(folder) == before
        assert (folder / "log.txt").read_text() == "theirs"


def test_a_finished_run_is_set_aside_not_overwritten(tmp_path: Path, script: Script) -> None:
    folder = leave(tmp_path, make_cell())
    (folder / "evals.csv").write_text("step,mean\n")
    for count in (1, 2):
        run(tmp_path, groups(1), redo=True)
        leave(tmp_path, make_cell())
        aside = sorted(path for path in folder.parent.iterdir() if path != folder)
        assert len(aside) == count
        assert all(path.name.endswith("-seed-0") and path.name.startswith("replaced-") for path in aside)
    assert (aside[0] / "evals.csv").read_text() == "step,mean\n"
    assert records.read_run(aside[0]).status == "done"
    assert load_results(tmp_path).runs["folder"].tolist() == [str(folder)]


@pytest.mark.parametrize("written", ["{", '{"schema": 2, "status": "done"}'])
def test_a_record_that_cannot_be_read_is_set_aside_with_its_rows(tmp_path: Path, script: Script, written: str) -> None:
    folder = leave(tmp_path, make_cell())
    (folder / "run.json").write_text(written)
    (folder / "evals.csv").write_text("step,mean\n20,1\n")
    run(tmp_path, groups(1))
    (aside,) = folder.parent.glob("replaced-*-seed-0")
    assert (aside / "run.json").read_text() == written
    assert (aside / "evals.csv").read_text() == "step,mean\n20,1\n"
    assert records.read_run(folder).status == "done"


def test_rows_of_an_earlier_attempt_are_not_taken_for_those_of_a_failed_one(tmp_path: Path, script: Script) -> None:
    folder = leave(tmp_path, make_cell(), "stopped")
    for name in ("evals.csv", "train.csv"):
        (folder / name).write_text("step,mean\n20,-100\n40,-50\n")
    script.usual = "sys.exit(1)"  # before it has rows of its own
    run(tmp_path, groups(1))
    assert records.read_run(folder).status == "failed"
    assert load_results(tmp_path).evals.empty


def test_cells_are_queued_before_any_is_trained_and_no_record_is_touched(tmp_path: Path) -> None:
    folder = leave(tmp_path, make_cell(seed=0), "failed")
    before = (folder / "run.json").read_bytes()
    enqueue(tmp_path, [make_cell(seed=seed) for seed in range(3)])
    assert (folder / "run.json").read_bytes() == before
    assert load_results(tmp_path).runs["status"].tolist() == ["failed", "queued", "queued"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 cannot leave the current folder out")
def test_a_worker_imports_nothing_from_where_the_user_stands(tmp_path: Path, script: Script, monkeypatch) -> None:
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


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_an_unfinished_run_is_begun_anew_in_its_folder(tmp_path: Path, script: Script, status: str) -> None:
    folder = leave(tmp_path, make_cell(), status)
    run(tmp_path, groups(1))
    assert [path.name for path in folder.parent.iterdir()] == ["seed-0"]
    assert records.read_run(folder).status == "done"


def test_a_results_folder_that_cannot_be_written_fails_the_cell_alone(tmp_path: Path, script: Script) -> None:
    blocked = tmp_path / make_cell(seed=0).path
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where the cell's folder should be")
    _, outcomes = run(tmp_path, groups(2))
    assert [outcomes[seed].status for seed in range(2)] == ["failed", "done"]
    assert "Error" in outcomes[0].error


def test_a_config_that_cannot_be_written_fails_the_cell_alone(tmp_path: Path, script: Script) -> None:
    odd = make_cell(seed=0, config=ToyConfig(lr=float("nan")))  # an algorithm that does not check its own
    _, outcomes = run(tmp_path, [Group((odd,)), *groups(2)[1:]])
    assert [outcomes[seed].status for seed in range(2)] == ["failed", "done"]
    assert "nan" in outcomes[0].error


def test_a_record_that_vanished_fails_the_cell_alone(tmp_path: Path, script: Script) -> None:
    script.codes = {0: "os.remove(sys.argv[1] + '/run.json'); sys.exit(1)"}
    _, outcomes = run(tmp_path, groups(2))
    assert [outcomes[seed].status for seed in range(2)] == ["failed", "done"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_signal_stops_what_runs_and_skips_the_rest(tmp_path: Path, script: Script, number: int, jobs: int) -> None:
    script.usual = (
        f"signal.signal(signal.SIGTERM, lambda *_: os._exit({protocol.EXIT_STOPPED}))\n"
        "print(json.dumps({'event': 'ready'}), flush=True); time.sleep(60)"
    )
    ready: list[object] = []

    def tell(group: Group, event: dict[str, object]) -> None:
        ready.append(event)
        if len(ready) == jobs:
            os.kill(os.getpid(), number)

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    runner, outcomes = run(tmp_path, groups(5), jobs, tell=tell)
    assert runner.interrupted
    statuses = [outcomes[seed].status for seed in range(5)]
    assert statuses.count("stopped") == jobs
    assert statuses.count("skipped") == 5 - jobs
    assert len(script.started) == jobs
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_a_worker_that_does_not_stop_is_ended(tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowbench.schedule.runner.GRACE_SECONDS", 0.3)
    script.usual = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(json.dumps({'event': 'ready'}), flush=True); time.sleep(60)"
    )
    runner, outcomes = run(tmp_path, groups(1), tell=lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert (runner.interrupted, outcomes[0].status) == (True, "stopped")
    assert records.status(tmp_path / make_cell().path) == "stopped"


def test_workers_do_not_get_ctrl_c_from_the_terminal(tmp_path: Path, script: Script) -> None:
    script.usual = "print(json.dumps({'event': os.getsid(0) == os.getpid()}))"
    told: list[dict[str, object]] = []
    run(tmp_path, groups(1), tell=lambda group, event: told.append(event))
    assert told == [{"event": True}]


def test_grids_can_be_run_outside_the_main_thread(tmp_path: Path, script: Script) -> None:
    found: list[dict[int, Outcome]] = []
    thread = threading.Thread(target=lambda: found.append(run(tmp_path, groups(2))[1]))
    thread.start()
    thread.join(60)
    assert [outcome.status for outcome in found[0].values()] == ["done", "done"]


def test_workers_find_the_code_that_this_process_runs(tmp_path: Path, script: Script, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "extra"), ""])
    script.usual = "print(json.dumps({'event': os.environ['PYTHONPATH'].split(os.pathsep)}))"
    told: list[dict[str, object]] = []
    run(tmp_path, groups(1), tell=lambda group, event: told.append(event))
    assert json.loads(json.dumps(told[0]["event"])) == [path or os.getcwd() for path in sys.path]


def test_of_a_group_what_others_have_finished_or_train_is_left_out(tmp_path: Path, script: Script) -> None:
    cells = [make_cell(seed=seed) for seed in range(4)]
    leave(tmp_path, cells[1], "done")
    leave(tmp_path, cells[2], "running")
    with lock.hold(tmp_path / cells[2].path):
        _, outcomes = run(tmp_path, [Group(tuple(cells))])
    assert {seed: outcome.status for seed, outcome in outcomes.items()} == {0: "done", 1: "done", 2: "busy", 3: "done"}
    assert script.started == [[str(tmp_path / cells[0].path), str(tmp_path / cells[3].path)]]
    assert records.read_run(tmp_path / cells[3].path).group == [0, 3]


def test_of_a_group_one_cell_may_fail(tmp_path: Path, script: Script) -> None:
    script.codes = {
        0: "for folder, status in zip(sys.argv[1:], ('done', 'failed')):\n"
        "    record = json.load(open(folder + '/run.json'))\n"
        "    record.update(status=status, error='it diverged')\n"
        "    json.dump(record, open(folder + '/run.json', 'w'))\n"
        "sys.exit(1)"
    }
    _, outcomes = run(tmp_path, [Group((make_cell(seed=0), make_cell(seed=1)))])
    assert (outcomes[0].status, outcomes[1].status) == ("done", "failed")
    assert outcomes[1].error == "it diverged"


# What the machine ended is started again


def times(count: int, update: str) -> str:
    """Code of a worker that does something the first `count` times only."""
    return (
        "seen = sys.argv[1] + '/seen'; n = len(open(seen).read()) if os.path.exists(seen) else 0\n"
        f"if n < {count}:\n    open(seen, 'a').write('x'); {update}\n"
    )


KILL = "os.kill(os.getpid(), signal.SIGKILL)"
FAIL = (
    "record = json.load(open(sys.argv[1] + '/run.json')); record.update(status='failed', error='it broke'); "
    "json.dump(record, open(sys.argv[1] + '/run.json', 'w')); sys.exit({})"
)


def test_a_worker_that_dies_twice_is_started_three_times_and_goes_on(tmp_path: Path, script: Script) -> None:
    saves = "os.makedirs(sys.argv[1] + '/checkpoint', exist_ok=True); open(sys.argv[1] + '/checkpoint/5.json', 'w'); "
    script.codes = {0: times(2, f"{saves}open(sys.argv[1] + '/evals.csv', 'a').write('row'); {KILL}")}
    told: list[dict[str, object]] = []
    _, outcomes = run(tmp_path, groups(2), tell=lambda group, event: told.append(event), retries=2)
    assert [outcomes[seed].status for seed in (0, 1)] == ["done", "done"]
    assert len(script.started) == 4
    assert [records.read_run(tmp_path / make_cell(seed=seed).path).attempts for seed in (0, 1)] == [3, 1]
    died = r"SIGKILL.* started again, attempt {} of 3$"
    assert [event["event"] for event in told] == ["note", "note"]
    assert all(re.search(died.format(n), str(event["text"])) for n, event in zip((2, 3), told, strict=True))
    assert (tmp_path / make_cell().path / "evals.csv").read_text() == "rowrow"
    log = outcomes[0].log.read_text().splitlines()
    assert [line.partition(",")[0] for line in log] == ["attempt 2 of 3", "attempt 3 of 3"]


def test_it_is_not_started_more_often_than_that(tmp_path: Path, script: Script) -> None:
    script.usual = KILL
    _, outcomes = run(tmp_path, groups(1), retries=1)
    assert outcomes[0].status == "failed"
    assert len(script.started) == 2
    assert "memory" in outcomes[0].error
    assert records.read_run(tmp_path / make_cell().path).error == outcomes[0].error


@pytest.mark.parametrize(
    ("ending", "started"),
    [
        (KILL, 2),
        ("os.abort()", 2),
        (FAIL.format(protocol.EXIT_TRANSIENT), 2),
        (f"os._exit({protocol.EXIT_TRANSIENT})", 2),  # it could not even write what became of it
        (FAIL.format(protocol.EXIT_FAILED), 1),
        ("os._exit(3)", 1),
        ("os._exit(0)", 1),
    ],
)
def test_what_an_algorithm_does_is_not_tried_again(tmp_path: Path, script: Script, ending: str, started: int) -> None:
    script.usual = times(1, ending)
    _, outcomes = run(tmp_path, groups(1), retries=5, fail_fast=True)
    assert len(script.started) == started
    assert outcomes[0].status == ("done" if started == 2 else "failed")


def test_a_disk_that_is_full_for_a_moment_is_tried_again(tmp_path: Path, script: Script, monkeypatch) -> None:
    real, full = records.write_run, [OSError(errno.ENOSPC, "No space left on device")]

    def write_run(folder: Path, record: dict[str, object]) -> None:
        if full:
            raise full.pop()
        real(folder, record)

    monkeypatch.setattr(records, "write_run", write_run)
    _, outcomes = run(tmp_path, groups(1), retries=1)
    assert outcomes[0].status == "done"


def test_a_stacked_group_is_started_again_whole(tmp_path: Path, script: Script) -> None:
    script.usual = times(1, KILL)
    _, outcomes = run(tmp_path, [Group((make_cell(seed=0), make_cell(seed=1)))], retries=1)
    assert [outcome.status for outcome in outcomes.values()] == ["done", "done"]
    assert script.started[0] == script.started[1]


def test_what_is_forced_begins_anew_once(tmp_path: Path, script: Script) -> None:
    folder = leave(tmp_path, make_cell(), "stopped")
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "900.json").touch()
    saves = "os.makedirs(sys.argv[1] + '/checkpoint'); open(sys.argv[1] + '/checkpoint/5.json', 'w'); "
    script.usual = times(1, saves + KILL)
    run(tmp_path, groups(1), retries=1, redo=True)
    assert [path.name for path in (folder / "checkpoint").iterdir()] == ["5.json"]


def test_what_a_first_attempt_of_forced_cells_has_finished_is_left_as_it_is(tmp_path: Path, script: Script) -> None:
    done = (
        "record = json.load(open(sys.argv[1] + '/run.json')); record.update(status='done'); "
        "json.dump(record, open(sys.argv[1] + '/run.json', 'w')); "
    )
    cells = (make_cell(seed=0), make_cell(seed=1))
    script.codes = {0: done + KILL}
    _, outcomes = run(tmp_path, [Group(cells)], retries=1, redo=True)
    assert [outcome.status for outcome in outcomes.values()] == ["done", "done"]
    assert [[Path(folder).name for folder in folders] for folders in script.started] == [
        ["seed-0", "seed-1"],
        ["seed-1"],
    ]
    assert not list(tmp_path.rglob("replaced-*"))


def test_seeds_that_are_added_until_it_is_decided_are_recorded_as_such(tmp_path: Path, script: Script) -> None:
    run(tmp_path, groups(1), auto=20)
    assert records.read_run(tmp_path / make_cell().path).auto == 20


def test_nothing_is_started_again_after_an_interrupt(tmp_path: Path, script: Script) -> None:
    script.usual = f"print(json.dumps({{'event': 'ready'}}), flush=True); time.sleep(0.5); {KILL}"
    runner, _ = run(tmp_path, groups(1), tell=lambda *_: os.kill(os.getpid(), signal.SIGINT), retries=9)
    assert runner.interrupted
    assert len(script.started) == 1


def test_a_worker_that_hung_beyond_its_time_timed_out(tmp_path: Path, script: Script) -> None:
    script.usual = "time.sleep(1.5); os._exit(1)"
    _, outcomes = run(tmp_path, groups(1), timeout=1.0, retries=3)
    assert (outcomes[0].status, outcomes[0].error) == ("failed", "timed out after 1 s")
    assert len(script.started) == 1
    assert records.read_run(tmp_path / make_cell().path).timeout == 1.0


# Beside others


RACER = """
import json, os, sys, time
from pathlib import Path
from fakes import make_cell
from flowbench.store import lease, lock, records
from flowbench.schedule.groups import Group
from flowbench.schedule.resources import Slots
from flowbench.schedule.runner import Runner

name, root, machines = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
lease.LOOK = 0.01
if machines == "two":
    lease.host = lambda: name
    lock.fcntl.flock = lambda *_: None

class Engine:
    inherits = True
    def work(self, folders, locks, log, tell):
        with (root / f"trained-by-{name}").open("a") as file:
            file.writelines(f"{folder.name}\\n" for folder in folders)
        time.sleep(0.02)
        for folder in folders:
            records.write_run(folder, {**records.read_run(folder), "status": "done"})
        return 0
    def stop(self, grace):
        pass

groups = [Group((make_cell(seed=seed),)) for seed in range(30)]
print("ready", flush=True)
sys.stdin.readline()
outcomes = list(Runner(root, Slots(2, "cpu", 1), lambda *_: None, engine=Engine()).run(groups))
print(json.dumps(sorted({outcome.status for outcome in outcomes})))
"""


@pytest.mark.parametrize("machines", ["one", "two"])
def test_two_that_race_train_each_cell_once(tmp_path: Path, machines: str) -> None:
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


def test_what_another_host_took_over_is_left_to_it(tmp_path: Path, script: Script) -> None:
    theirs = "{**json.load(open(sys.argv[1] + '/run.json')), 'status': 'running', 'pid': -7}"
    script.usual = (
        "(old,) = os.listdir(sys.argv[1] + '/lease'); os.remove(sys.argv[1] + '/lease/' + old)\n"
        "open(sys.argv[1] + '/lease/other-1.00', 'w')\n"
        f"record = {theirs}; json.dump(record, open(sys.argv[1] + '/run.json', 'w')); os._exit({protocol.EXIT_BUSY})"
    )
    _, outcomes = run(tmp_path, groups(1), retries=2)
    assert outcomes[0].status == "busy"
    assert len(script.started) == 1
    folder = tmp_path / make_cell().path
    assert (records.read_run(folder).status, records.read_run(folder).pid) == ("running", -7)
    assert [path.name for path in (folder / "lease").iterdir()] == ["other-1.00"]


def test_a_dead_hosts_cell_is_taken_over(tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "STALE", 0.3)
    monkeypatch.setattr(lease, "LOOK", 0.05)
    folder = leave(tmp_path, make_cell(), "running")
    (folder / "lease").mkdir()
    (folder / "lease" / "other-1.00").write_text("7 7")
    _, outcomes = run(tmp_path, groups(1))
    assert outcomes[0].status == "done"
    assert not (folder / "lease").exists()


class Elsewhere:
    """An engine of workers that inherit nothing."""

    inherits = False

    def __init__(self, work) -> None:
        self._work = work

    def work(self, folders, locks, log, tell) -> int:
        assert list(locks) == []
        return self._work(folders)

    def stop(self, grace: float) -> None:
        pass


def test_a_worker_that_inherits_nothing_takes_what_it_needs(tmp_path: Path) -> None:
    def work(folders: list[Path]) -> int:
        command = [sys.executable, "-m", "flowbench.worker", *map(str, folders)]
        here = Path(__file__).parents[2]
        return subprocess.run(command, check=False, cwd=here, stdout=subprocess.DEVNULL).returncode

    cells = tuple(make_cell(seed=seed, suite=SUITE) for seed in (0, 1))
    _, outcomes = run(tmp_path, [Group(cells)], engine=Elsewhere(work))
    assert [outcome.status for outcome in outcomes.values()] == ["done", "done"]
    assert not (tmp_path / cells[0].path / "lease").exists()


def test_a_cell_that_somebody_took_before_that_worker_is_left_to_it(tmp_path: Path) -> None:
    with ExitStack() as stack:

        def work(folders: list[Path]) -> int:
            stack.enter_context(lock.hold(folders[0]))
            return protocol.EXIT_BUSY

        _, outcomes = run(tmp_path, groups(1), engine=Elsewhere(work), retries=1)
        assert outcomes[0].status == "busy"
        assert records.read_run(tmp_path / make_cell().path).status == "queued"


def test_a_cell_whose_node_was_lost_is_failed_and_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "STALE", 0.3)
    monkeypatch.setattr(lease, "LOOK", 0.05)
    lost = []

    def work(folders: list[Path]) -> int:
        if not lost:  # the node takes the lease with it
            lost.append((folders[0] / "lease").mkdir())
            (folders[0] / "lease" / "node7-1.00").write_text("7 7")
            return -signal.SIGKILL
        records.write_run(folders[0], replace(records.read_run(folders[0]), status="done"))
        return 0

    _, outcomes = run(tmp_path, groups(1), engine=Elsewhere(work), retries=1)
    assert outcomes[0].status == "done"
    assert records.read_run(tmp_path / make_cell().path).attempts == 2
