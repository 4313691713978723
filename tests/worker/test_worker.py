"""The worker: it trains one group of cells, writes their files and reports how they ended."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import re
import signal
import subprocess
import sys
import textwrap
import time
from datetime import datetime
from pathlib import Path

import pytest
import torch
from fakes import make_cell, make_suite, put_run, without_clock, write_algorithm

from flowbench.common import errors, system
from flowbench.learners import placement
from flowbench.plan.cells import Cell
from flowbench.schedule.resources import choose_gpus, share
from flowbench.store import checkpoint, lock, records
from flowbench.store.records import ProtocolInfo, RunRecord, Sizes
from flowbench.train.trainer import Trainer
from flowbench.worker import __main__ as worker_main
from flowbench.worker import protocol
from flowbench.worker.session import Session

SUITE = make_suite(steps=450, every=150)  # episodes of Pendulum-v1 are of 200 steps


def queue(root: Path, cell: Cell, group: list[int] | None = None, **changes: object) -> Path:
    """A cell's folder as the scheduler prepares it."""
    return put_run(root, cell, **{"status": "queued", "group": group, "device": "cpu", "threads": 1, **changes})


def train(*folders: Path) -> tuple[int, list[dict[str, object]]]:
    """Train in this process: the exit code and the events."""
    events = io.StringIO()
    status = worker_main._run(Session(folders), events)
    return status, [json.loads(line) for line in events.getvalue().splitlines()]


def cell(seed: int = 0, algo: str = "td3", **changes: object) -> Cell:
    return make_cell(algo, seed=seed, suite=SUITE, random_steps=100, **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    """Seed 3, alone."""
    root = tmp_path_factory.mktemp("alone")
    folder = queue(root, cell(3))
    status, events = train(folder)
    assert status == 0
    return folder, events


@pytest.mark.slow
def test_record_of_a_finished_run(trained) -> None:
    run = records.read_run(trained[0])
    assert run.status == "done"
    assert run.error is None
    assert (run.seed, run.group, run.device) == (3, [3], "cpu")
    assert datetime.fromisoformat(run.started) <= datetime.fromisoformat(run.ended)
    assert datetime.fromisoformat(run.started).utcoffset() is not None
    assert run.versions["torch"] == torch.__version__
    assert run.machine.cpu
    assert run.machine.gpu is None
    assert run.machine.threads == run.threads == 1
    assert set(run.wall) == {"environment", "act", "replay", "update", "evaluation", "other", "total"}
    assert run.wall["total"] == pytest.approx(sum(run.wall.values()) / 2, abs=0.01)
    assert run.seconds >= run.wall["total"] - 0.001
    assert 0 < run.startup < run.seconds
    assert run.sizes == Sizes(3, 1)
    assert run.memory.host_bytes > 2**26  # torch alone takes more
    assert run.memory.gpu_bytes is None
    # actor 3-8-8-1 and two critics 4-8-8-1
    assert run.parameters == (32 + 72 + 9) + 2 * (40 + 72 + 9)
    assert run.config["hidden"] == 8
    assert run.protocol == ProtocolInfo(450, 150, 1)


@pytest.mark.slow
def test_rows_of_a_finished_run(trained) -> None:
    evals = (trained[0] / "evals.csv").read_text().splitlines()
    train_rows = (trained[0] / "train.csv").read_text().splitlines()
    assert evals[0] == "step,mean,std,return_0,seconds"
    assert [line.split(",")[0] for line in evals[1:]] == ["150", "300", "450"]
    assert train_rows[0].startswith("step,episode,return,length,updates,seconds,steps_per_second,critic/loss")
    assert [line.split(",")[:2] + line.split(",")[3:5] for line in train_rows[1:]] == [
        ["200", "1", "200", "100"],
        ["400", "2", "200", "300"],
    ]


@pytest.mark.slow
def test_events_report_the_progress(trained) -> None:
    folder, events = trained
    assert [event["text"] for event in events if event["event"] == "stage"] == ["loading", "building"]
    assert [event["step"] for event in events if event["event"] == "evaluation"] == [150, 300, 450]
    means = [line.split(",")[1] for line in (folder / "evals.csv").read_text().splitlines()[1:]]
    assert [event["mean"] for event in events if event["event"] == "evaluation"] == [float(mean) for mean in means]
    assert [event for event in events if event["event"] == "tick"][-1]["step"] == 450


@pytest.mark.slow
def test_two_seeds_in_one_worker(trained, tmp_path: Path) -> None:
    folders = [queue(tmp_path, cell(seed), [3, 4]) for seed in (3, 4)]
    status, events = train(*folders)
    assert status == 0
    assert {event["seed"] for event in events if event["event"] == "evaluation"} == {3, 4}
    assert [records.read_run(folder).group for folder in folders] == [[3, 4], [3, 4]]
    assert [records.read_run(folder).learner.kind for folder in folders] == ["stacked", "stacked"]
    assert records.read_run(trained[0]).learner.kind == "separate"
    again = [queue(tmp_path / "again", cell(seed), [3, 4]) for seed in (3, 4)]
    train(*again)
    for table in ("evals.csv", "train.csv"):
        first, second = (without_clock(folder / table) for folder in folders)
        assert [first, second] == [without_clock(folder / table) for folder in again]
        assert first != second
        assert len(first.splitlines()) == len(without_clock(trained[0] / table).splitlines())


@pytest.mark.slow
def test_seeds_that_cannot_be_stacked_are_trained_separately_with_a_note(trained, tmp_path: Path) -> None:
    spec = write_algorithm(
        tmp_path, "Branches", "learner.minimise('critic', lambda b: (self.critic_loss(b)[0] * (1 if b.reward.sum() > 0 "
        "else 1), {}), batch)\nreturn",
    )  # fmt: skip
    cells = [make_cell("branches", target=spec, seed=seed, suite=SUITE, random_steps=100) for seed in (3, 4)]
    folders = [queue(tmp_path, each, [3, 4]) for each in cells]
    status, events = train(*folders)
    assert status == 0
    (note,) = [event["text"] for event in events if event["event"] == "note"]
    assert "cannot be stacked: " in note
    assert "branches.py:" in note
    assert records.read_run(folders[1]).learner.kind == "separate"


@pytest.mark.slow
def test_one_of_two_seeds_diverges(tmp_path: Path) -> None:
    spec = write_algorithm(
        tmp_path, "Poisoned", "if type(self).calls == 50:\n    with torch.no_grad():\n"
        "        learner._state['actor.net.4.bias'][1] = float('nan')", head="import torch",
    )  # fmt: skip
    cells = [make_cell("poisoned", target=spec, seed=seed, suite=SUITE, random_steps=100) for seed in (3, 4)]
    folders = [queue(tmp_path, each, [3, 4]) for each in cells]
    status, _ = train(*folders)
    assert status == protocol.EXIT_FAILED
    good, bad = (records.read_run(folder) for folder in folders)
    assert (good.status, bad.status) == ("done", "failed")
    assert good.error is None
    assert re.match(r"FloatingPointError: .* at step \d+|FloatingPointError: .* became nan by step \d+", bad.error)
    assert (folders[0] / "evals.csv").read_text().splitlines()[-1].startswith("450,")
    assert len((folders[1] / "evals.csv").read_text().splitlines()) < 4


@pytest.mark.slow
def test_evaluation_changes_no_training_row(trained, tmp_path: Path) -> None:
    folder = queue(tmp_path, cell(3, every=450, episodes=2))
    assert train(folder)[0] == 0
    assert without_clock(folder / "train.csv") == without_clock(trained[0] / "train.csv")


def test_algorithm_file_changed_since_planning_is_rejected(tmp_path: Path) -> None:
    spec = write_algorithm(tmp_path, "Changes", "pass")
    folder = queue(tmp_path, make_cell("changes", target=spec))
    with open(spec.partition(":")[0], "a") as file:
        file.write("# changed\n")
    assert train(folder)[0] == protocol.EXIT_FAILED
    assert re.search(r"changes\.py was changed", records.read_run(folder).error)


def test_algorithm_whose_helper_changed_since_planning_is_rejected(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "helper_of_changes.py").write_text("SCALE = 1.0\n")
    spec = write_algorithm(tmp_path, "Changes", "pass", head="import helper_of_changes")
    folder = queue(tmp_path, make_cell("changes", target=spec))
    (tmp_path / "helper_of_changes.py").write_text("SCALE = 0.0\n")
    assert train(folder)[0] == protocol.EXIT_FAILED
    assert re.search(r"changes\.py was changed", records.read_run(folder).error)


@pytest.mark.slow
def test_diagnostic_that_appears_late_is_dropped_with_a_line(tmp_path: Path, capsys) -> None:
    loss = "lambda b: (self.critic_loss(b)[0], {'late': b.reward.mean()})"
    extra = f"if self.calls > 5:\n    learner.minimise('critic', {loss}, batch)"
    spec = write_algorithm(tmp_path, "Late", extra)
    folder = queue(tmp_path, make_cell("late", target=spec, suite=SUITE))
    assert train(folder)[0] == 0
    assert "critic/late is not recorded" in capsys.readouterr().err
    assert "critic/late" not in (folder / "train.csv").read_text()


@pytest.mark.parametrize(
    ("asked", "cuda", "device"),
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_devices(monkeypatch: pytest.MonkeyPatch, asked: str, cuda: bool, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert placement.device(asked).type == device


def test_missing_device_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="no CUDA device"):
        placement.device("cuda")


def test_a_worker_that_was_given_a_gpu_and_finds_none_fails_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old\n(found version 11040)")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    # As the scheduler writes it for a machine with a GPU and without --device.
    monkeypatch.setattr(system, "gpus", lambda: ["0"])
    slots = share("auto", None, gpus=choose_gpus("auto", None))
    folder = queue(tmp_path, cell(), device=slots.device, precision=slots.precision)
    assert train(folder)[0] == protocol.EXIT_FAILED
    run = records.read_run(folder)
    assert run.status == "failed"
    assert "no CUDA device can be used here (The NVIDIA driver on your system is too old (found version" in run.error
    assert not (folder / "train.csv").exists()


def test_a_note_of_the_trainer_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "note", "seeds are trained one after another")
    folder = queue(tmp_path, cell(steps=20, every=20))
    assert train(folder)[0] == 0
    assert json.loads((folder / "run.json").read_text())["note"] == "seeds are trained one after another"


def test_run_stops_if_nobody_reads_its_events(tmp_path: Path) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    folder = queue(tmp_path, make_cell())
    assert worker_main._run(Session([folder]), Gone()) == protocol.EXIT_STOPPED
    assert records.read_run(folder).status == "stopped"


# As a process


def start(*arguments: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flowbench.worker", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment(), **options
    )


def _environment() -> dict[str, str]:
    import os

    root = str(Path(worker_main.__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"}


def test_usage_without_a_folder(capfd) -> None:
    assert worker_main.main([]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("usage: python -m flowbench.worker")


@pytest.mark.parametrize(("status", "said"), [("queued", "another process trains"), ("done", "done already")])
def test_cell_that_is_trained_elsewhere_or_done_is_left_alone(tmp_path: Path, capfd, status: str, said: str) -> None:
    folder = queue(tmp_path, make_cell(), status=status)
    before = (folder / "run.json").read_bytes()
    with lock.hold(folder) if status == "queued" else contextlib.nullcontext():
        assert worker_main.main([str(folder)]) == protocol.EXIT_BUSY
    assert said in capfd.readouterr().err
    assert (folder / "run.json").read_bytes() == before


@pytest.mark.slow
def test_printed_text_goes_to_the_log_and_sigterm_stops_the_run(tmp_path: Path) -> None:
    prints = "print('{\"event\": \"tick\"}'); os.write(1, b'raw\\n')"
    spec = write_algorithm(tmp_path, "Prints", prints, head="print('at import')")
    suite = make_suite(steps=1_000_000, every=50)
    folder = queue(tmp_path, make_cell("prints", target=spec, suite=suite))
    process = start(folder)
    assert process.stdout is not None
    assert process.stderr is not None
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if events[-1]["event"] == "evaluation":
            break
    assert records.status(folder) == "running"
    asked = time.monotonic()
    process.terminate()
    process.terminate()  # a second one changes nothing
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - asked < 10
    assert process.returncode == protocol.EXIT_STOPPED
    assert all(json.loads(line)["event"] in ("tick", "evaluation") for line in out.splitlines())
    assert "at import" in err
    assert "raw" in err
    assert '{"event": "tick"}' in err
    assert records.status(folder) == "stopped"
    assert (folder / "evals.csv").read_text().splitlines()[1].startswith("50,")


# Its time, and faults of the machine


@pytest.mark.slow
def test_time_limit_saves_a_checkpoint_to_resume_from(tmp_path: Path, monkeypatch) -> None:
    up = "if self.calls == 40 and 'UP' in os.environ:\n    signal.raise_signal(signal.SIGALRM)"  # as its timer does
    spec = write_algorithm(tmp_path, "Slow", up)
    folder = queue(tmp_path, make_cell("slow", target=spec, suite=SUITE), checkpoint_every=1000, timeout=7200)
    monkeypatch.setenv("UP", "")
    assert train(folder)[0] == protocol.EXIT_FAILED
    run = records.read_run(folder)
    assert (run.status, run.error) == ("failed", "timed out after 2 h")
    (step,) = checkpoint.steps(folder)
    monkeypatch.delenv("UP")
    assert train(folder)[0] == 0
    run = records.read_run(folder)
    assert (run.status, run.error, run.resumed[0].step) == ("done", None, step)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.slow
def test_worker_that_hangs_beyond_its_time_limit_prints_where_and_ends() -> None:
    code = """
        import time
        from types import SimpleNamespace
        from flowbench.worker import __main__ as worker
        class Session:
            first = SimpleNamespace(timeout=0.5)
            def time_out(self, *_):
                print("rang", flush=True)
        def hangs():
            while True:
                time.sleep(1000)
        worker.GRACE_SECONDS = 0.5
        with worker._time_limit(Session()):
            hangs()
    """
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=_environment(), timeout=120
    )
    assert (process.returncode, process.stdout) == (1, "rang\n")
    assert re.search(r"^Timeout.*in hangs\b", process.stderr, re.DOTALL)


@pytest.mark.parametrize(
    ("update", "status", "error"),
    [
        ("raise OSError(errno.ENOSPC, 'no')", protocol.EXIT_TRANSIENT, "OSError: [Errno 28] no"),
        ("raise OSError(errno.ENOENT, 'no')", protocol.EXIT_FAILED, "FileNotFoundError: [Errno 2] no"),
        ("bytearray(1 << 60)", protocol.EXIT_TRANSIENT, "MemoryError"),
        (
            "raise BrokenPipeError('its own helper is gone')",
            protocol.EXIT_FAILED,
            "BrokenPipeError: its own helper is gone",
        ),
        ("raise RuntimeError('two\\n  lines')", protocol.EXIT_FAILED, "RuntimeError: two lines"),
    ],
)
def test_exit_code_tells_faults_of_the_machine_from_other_errors(
    tmp_path: Path, capsys, update: str, status: int, error: str
) -> None:
    spec = write_algorithm(tmp_path, "Breaks", f"if self.calls > 3:\n    {update}", head="import errno")
    folder = queue(tmp_path, make_cell("breaks", target=spec, suite=make_suite(steps=40, every=10)))
    assert train(folder)[0] == status
    run = records.read_run(folder)
    assert (run.status, run.error) == ("failed", error)
    assert run.ended
    assert (folder / "evals.csv").read_text().count("\n") == 3  # steps 10 and 20; updates begin with step 21
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("statuses", [("done",), ("running",), records.STATUSES])
def test_full_disk_at_a_record_is_a_fault_of_the_machine(tmp_path, monkeypatch, capsys, statuses) -> None:
    folder = queue(tmp_path, make_cell())
    write_run = records.write_run

    def full(folder: Path, run: RunRecord) -> None:
        if run.status in statuses:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_run(folder, run)

    monkeypatch.setattr(records, "write_run", full)
    if statuses == ("running",):  # what went wrong can be recorded
        assert train(folder)[0] == protocol.EXIT_TRANSIENT
        assert records.read_run(folder).status == "failed"
    else:
        with pytest.raises(SystemExit) as ended:
            train(folder)
        assert ended.value.code == protocol.EXIT_TRANSIENT
    assert "No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"),
    [(errors.Killed("an environment"), protocol.EXIT_TRANSIENT), (ValueError("odd"), protocol.EXIT_FAILED)],
)
def test_exit_code_if_one_seed_failed_by_a_fault_of_the_machine(tmp_path, monkeypatch, error, status) -> None:
    folders = [queue(tmp_path, make_cell(seed=seed), [0, 1]) for seed in (0, 1)]
    train_for_real = worker_main._train

    def loses_one(cells: Session, say: object) -> None:
        train_for_real(cells, say)
        cells.fail(1, error)

    monkeypatch.setattr(worker_main, "_train", loses_one)
    assert train(*folders)[0] == status
    assert [records.read_run(folder).status for folder in folders] == ["done", "failed"]
