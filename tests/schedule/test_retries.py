"""Groups that a fault of the machine ended are started again, up to --retries times."""

from __future__ import annotations

import errno
import os
import re
import signal
from pathlib import Path

import pytest
from fakes import make_cell, put_run
from scripts import groups, run, run_for_events

from flowbench.schedule.groups import Group
from flowbench.store import records
from flowbench.store.records import RunRecord
from flowbench.worker import protocol


def times(count: int, update: str) -> str:
    """Code of a worker that does something the first `count` times only."""
    return (
        "seen = sys.argv[1] + '/seen'; n = len(open(seen).read()) if os.path.exists(seen) else 0\n"
        f"if n < {count}:\n    open(seen, 'a').write('x'); {update}\n"
    )


KILL = "os.kill(os.getpid(), signal.SIGKILL)"
FAIL = "record(status='failed', error='it broke'); sys.exit({})"


def test_worker_that_dies_twice_is_started_three_times(tmp_path: Path, script) -> None:
    saves = "os.makedirs(sys.argv[1] + '/checkpoint', exist_ok=True); open(sys.argv[1] + '/checkpoint/5.json', 'w'); "
    script.codes = {0: times(2, f"{saves}open(sys.argv[1] + '/evals.csv', 'a').write('row'); {KILL}")}
    events, outcomes = run_for_events(tmp_path, groups(2), retries=2)
    assert [outcomes[seed].status for seed in (0, 1)] == ["done", "done"]
    assert len(script.started) == 4
    assert [records.read_run(tmp_path / make_cell(seed=seed).path).attempts for seed in (0, 1)] == [3, 1]
    died = r"SIGKILL.* started again, attempt {} of 3$"
    assert [event["event"] for event in events] == ["note", "note"]
    assert all(re.search(died.format(n), str(event["text"])) for n, event in zip((2, 3), events, strict=True))
    assert (tmp_path / make_cell().path / "evals.csv").read_text() == "rowrow"
    log = outcomes[0].log.read_text().splitlines()
    assert [line.partition(",")[0] for line in log] == ["attempt 2 of 3", "attempt 3 of 3"]


def test_retries_limit_the_attempts(tmp_path: Path, script) -> None:
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
def test_only_faults_of_the_machine_are_retried(tmp_path: Path, script, ending: str, started: int) -> None:
    script.usual = times(1, ending)
    _, outcomes = run(tmp_path, groups(1), retries=5, fail_fast=True)
    assert len(script.started) == started
    assert outcomes[0].status == ("done" if started == 2 else "failed")


def test_full_disk_is_retried(tmp_path: Path, script, monkeypatch) -> None:
    real, full = records.write_run, [OSError(errno.ENOSPC, "No space left on device")]

    def write_run(folder: Path, record: RunRecord) -> None:
        if full:
            raise full.pop()
        real(folder, record)

    monkeypatch.setattr(records, "write_run", write_run)
    _, outcomes = run(tmp_path, groups(1), retries=1)
    assert outcomes[0].status == "done"


def test_stacked_group_is_retried_whole(tmp_path: Path, script) -> None:
    script.usual = times(1, KILL)
    _, outcomes = run(tmp_path, [Group((make_cell(seed=0), make_cell(seed=1)))], retries=1)
    assert [outcome.status for outcome in outcomes.values()] == ["done", "done"]
    assert script.started[0] == script.started[1]


def test_force_removes_checkpoints_at_the_first_attempt_only(tmp_path: Path, script) -> None:
    folder = put_run(tmp_path, make_cell(), "stopped")
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "900.json").touch()
    saves = "os.makedirs(sys.argv[1] + '/checkpoint'); open(sys.argv[1] + '/checkpoint/5.json', 'w'); "
    script.usual = times(1, saves + KILL)
    run(tmp_path, groups(1), retries=1, force=True)
    assert [path.name for path in (folder / "checkpoint").iterdir()] == ["5.json"]


def test_forced_cell_that_is_done_is_not_retried(tmp_path: Path, script) -> None:
    cells = (make_cell(seed=0), make_cell(seed=1))
    script.codes = {0: "record(status='done'); " + KILL}
    _, outcomes = run(tmp_path, [Group(cells)], retries=1, force=True)
    assert [outcome.status for outcome in outcomes.values()] == ["done", "done"]
    assert [[Path(folder).name for folder in folders] for folders in script.started] == [
        ["seed-0", "seed-1"],
        ["seed-1"],
    ]
    assert not list(tmp_path.rglob("replaced-*"))


def test_nothing_is_retried_after_an_interrupt(tmp_path: Path, script) -> None:
    script.usual = f"print(json.dumps({{'event': 'ready'}}), flush=True); time.sleep(0.5); {KILL}"
    runner, _ = run(tmp_path, groups(1), on_event=lambda *_: os.kill(os.getpid(), signal.SIGINT), retries=9)
    assert runner.interrupted
    assert len(script.started) == 1


@pytest.mark.slow
def test_worker_that_hangs_beyond_the_time_limit_timed_out(tmp_path: Path, script) -> None:
    script.usual = "time.sleep(1.5); os._exit(1)"
    _, outcomes = run(tmp_path, groups(1), timeout=1.0, retries=3)
    assert (outcomes[0].status, outcomes[0].error) == ("failed", "timed out after 1 s")
    assert len(script.started) == 1
    assert records.read_run(tmp_path / make_cell().path).timeout == 1.0
