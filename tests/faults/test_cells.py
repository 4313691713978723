"""Cells whose environment, evaluation or loss fails: only they fail, and the next run trains them again."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import sys
from functools import partial
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import Toy, ToyConfig, Walk, make_cell, make_suite, put_run, without_clock, write_algorithm
from harm import until
from msgspec.structs import replace

import suites
from flowbench.common.rng import stream_seed
from flowbench.learners.placement import Placement
from flowbench.store import checkpoint, records
from flowbench.store.csv_rows import TABLES
from flowbench.train import trainer
from flowbench.train.build import build_trainer
from flowbench.train.events import Row, SeedFailed
from flowbench.train.trainer import Trainer
from flowbench.worker import __main__ as worker_main
from flowbench.worker import protocol
from flowbench.worker.session import Session

SUITE = make_suite(steps=40, every=10, episodes=2)
SEEDS = (0, 1, 2)
CPU = torch.device("cpu")


class Faulty(Walk):
    """A walk that goes wrong in the second episode of seed 1's training, or in its evaluation at step 20."""

    wrong = ""

    def __init__(self):
        super().__init__(7)

    def reset(self, *, seed=None, options=None):
        evaluation = {stream_seed(1, "evaluation", 20, k) for k in range(2)}
        self.bad = seed in evaluation if "evaluation" in self.wrong else seed == stream_seed(1, "training", 1)
        if self.bad and self.wrong == "reset":
            raise OSError("the simulator is gone")
        return super().reset(seed=seed)

    def step(self, action):
        obs, reward, *rest = super().step(action)
        if not (self.bad and self.taken == 3):
            return obs, reward, *rest
        if "raises" in self.wrong:
            raise ZeroDivisionError("somewhere\nin C")
        if self.wrong == "exits":
            sys.exit(3)
        obs = {"observation": obs * math.nan, "shape": np.zeros(5)}.get(self.wrong.partition(" ")[0], obs)
        return obs, {"reward": math.nan, "rewards": [1.0, 2.0]}.get(self.wrong.partition(" ")[0], reward), *rest


LINES = {
    "raises": "EnvironmentFault: the environment raised ZeroDivisionError: somewhere in C, at step 10",
    "exits": "EnvironmentFault: the environment raised SystemExit: 3, at step 10",
    "reset": "EnvironmentFault: the environment raised OSError: the simulator is gone, at step 7",
    "observation": "EnvironmentFault: the environment returned an observation that is not finite, at step 10",
    "reward": "EnvironmentFault: the environment returned a reward that is not finite, at step 10",
    "shape": "EnvironmentFault: the environment returned an observation of shape (5,); its space says (2,), at step 10",
    "rewards": "EnvironmentFault: the environment returned a reward of shape (2,), at step 10",
    "raises in evaluation": "EvaluationFault: the evaluation of step 20: ZeroDivisionError: somewhere in C",
    "reward in evaluation": "EvaluationFault: the evaluation of step 20: EnvironmentFault: the environment returned a "
    "reward that is not finite",
}


def queue(root: Path, cells, **changes: object) -> list[Path]:
    """Folders of cells as the runner prepares them, whatever is there."""
    folders = []
    for cell in cells:
        before = records.read_if_valid(root / cell.path)
        kept = {key: getattr(before, key) for key in ("started", "began", "resumed")} if before else {}
        settings = {"device": "cpu", "threads": 1, "checkpoint_every": 10, "precision": "float32", **changes, **kept}
        folders.append(put_run(root, cell, "queued", [each.seed for each in cells], **settings))
    return folders


def train(folders: list[Path]) -> tuple[int, list[dict[str, object]]]:
    """Train in this process: the exit status and the events."""
    events = io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        status = worker_main._run(Session(folders), events)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return status, [json.loads(line) for line in events.getvalue().splitlines()]


def tables(folder: Path) -> list[str]:
    return [without_clock(folder / table) for table in TABLES]


@pytest.fixture(autouse=True)
def faulty(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(suites, "make", lambda task: Faulty())
    return partial(monkeypatch.setattr, Faulty, "wrong")


def cells(seeds=SEEDS, **changes):
    return [make_cell(seed=seed, suite=SUITE, **changes) for seed in seeds]


@pytest.mark.parametrize("wrong", LINES)
def test_faulty_environment_fails_only_its_own_cell(tmp_path: Path, faulty, capfd, wrong: str) -> None:
    whole = queue(tmp_path / "whole", cells())
    assert train(whole)[0] == 0
    alone = queue(tmp_path / "alone", cells((1,)))
    assert train(alone)[0] == 0
    folders = queue(tmp_path / "faulty", cells())
    faulty(wrong)
    assert train(folders)[0] == protocol.EXIT_FAILED
    found = [records.read_run(folder) for folder in folders]
    assert [record.status for record in found] == ["done", "failed", "done"]
    assert [record.error for record in found] == [None, LINES[wrong], None]
    assert [tables(folders[slot]) for slot in (0, 2)] == [tables(whole[slot]) for slot in (0, 2)]
    if "raise" in wrong:
        assert "in step" in capfd.readouterr().err
    kept = [path.read_bytes() for slot in (0, 2) for path in (folders[slot] / table for table in TABLES)]
    faulty("")  # the cause is gone: the cell that failed is trained from its start, and alone
    assert train(queue(tmp_path / "faulty", cells((1,))))[0] == 0
    assert tables(folders[1]) == tables(alone[0])
    assert kept == [path.read_bytes() for slot in (0, 2) for path in (folders[slot] / table for table in TABLES)]


@pytest.mark.parametrize("wrong", ["raises", "raises in evaluation"])
def test_failed_cell_resumes_once_the_cause_is_gone(tmp_path: Path, faulty, wrong: str) -> None:
    (whole,) = queue(tmp_path / "whole", cells((1,)))
    assert train([whole])[0] == 0
    faulty(wrong)
    (folder,) = queue(
        tmp_path / "faulty",
        cells((1,)),
        checkpoint_every=5,
    )
    assert train([folder])[0] == protocol.EXIT_FAILED
    assert records.read_run(folder).error == LINES[wrong]
    faulty("")
    queue(tmp_path / "faulty", cells((1,)), checkpoint_every=5)
    assert train([folder])[0] == 0
    assert records.read_run(folder).resumed[0].step >= 5
    assert tables(folder) == tables(whole)


def test_diverged_loss_is_named_and_fails_again(tmp_path: Path) -> None:
    loss = "lambda b: (self.critic_loss(b)[0] * float('nan' if b.progress > 0.6 else 1), {})"
    spec = write_algorithm(tmp_path, "Diverges", f"learner.minimise('critic', {loss}, batch)\nreturn")
    cell = make_cell("diverges", target=spec, suite=SUITE, random_steps=10)
    (folder,) = queue(tmp_path, [cell])
    for attempt in range(2):
        assert train([folder])[0] == protocol.EXIT_FAILED
        assert records.read_run(folder).error == (
            "FloatingPointError: critic/loss became nan by step 28; resuming from its checkpoint fails again, "
            "--force starts it over"
        )
        assert len(records.read_run(folder).resumed or []) == attempt
        queue(tmp_path, [cell])


def test_killed_environment_process_fails_only_its_own_seed() -> None:
    def rows(happened) -> list[object]:
        clock = ("seconds", "steps_per_second")
        found = [each for each in happened if isinstance(each, Row) and each.seed == 0]
        return [(row.table, [each for key, each in row.values.items() if key not in clock]) for row in found]

    def made(processes: int) -> Trainer:
        placement = Placement(CPU, stack=True, environments=processes)
        options = {"steps": 60, "evaluate_every": 20, "evaluation_episodes": 1, "placement": placement}
        return build_trainer(partial(Walk, 7), Toy, ToyConfig(), (0, 1), **options)

    dying, happened = made(2), []
    for each in dying.run():
        happened.append(each)
        if isinstance(each, Row) and (each.seed, each.values["step"]) == (1, 21):
            (child,) = [child for child in active_children() if child.name == "environment process 1"]
            os.kill(child.pid, signal.SIGKILL)
            child.join()
    dying.close()
    (lost,) = [each for each in happened if isinstance(each, SeedFailed)]
    assert lost.seed == 1
    assert str(lost.error) == "environment process 1 was killed by SIGKILL (out of memory?), at step 22"
    assert rows(happened) == rows(made(0).run())


def test_stop_does_not_wait_for_a_long_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "STOP_SECONDS", 0.1)
    monkeypatch.setattr(trainer, "TICK_SECONDS", 0.05)
    placement = Placement(CPU, evaluation=1)
    options = {"steps": 60, "evaluate_every": 20, "evaluation_episodes": 1, "placement": placement, "save_every": 20}
    slow = build_trainer(partial(Walk, 7), Toy, ToyConfig(), (0,), **options)
    happened = []
    for each in slow.run():
        happened.append(each)
        if isinstance(each, Row) and each.values["step"] == 21:
            (child,) = [child for child in active_children() if child.name.startswith("evaluation")]
            os.kill(child.pid, signal.SIGSTOP)
            slow.stop()
    slow.close()
    assert not slow.finished
    assert [type(each).__name__ for each in happened][-1] != "Save"


def test_resuming_under_other_conditions_is_recorded_and_noted(tmp_path: Path) -> None:
    folders = queue(tmp_path, cells((0, 1)))
    group = Session(folders)
    stopped = stop_at(group, 20)
    assert [max(checkpoint.steps(folder)) for folder in folders] == [stopped] * 2
    before = records.read_run(folders[1])
    records.write_run(folders[1], replace(before, began=replace(before.began, code="1a")))
    status, events = train(queue(tmp_path, cells((1,)), precision="bfloat16", threads=2))
    assert status == 0
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert notes[0] == "td3 Pendulum-v1: seeds 1 resume with different noise: stacked with 0,1 before, separate now"
    assert notes[1:] == [
        f"td3 Pendulum-v1: resumes with {change}: not exactly as if it had not been interrupted"
        for change in ("precision bfloat16, after float32", "threads 2, after 1", f"code {before.algo.code}, after 1a")
    ]
    record = records.read_run(folders[1])
    assert (record.began.precision, record.began.threads) == ("float32", 1)
    (resumed,) = record.resumed
    assert (resumed.step, resumed.precision, resumed.threads) == (stopped, "bfloat16", 2)
    assert (resumed.versions, resumed.code) == (record.versions, record.algo.code)


def stop_at(group: Session, step: int) -> int:
    """Train until a checkpoint of this step or a later one."""

    class Stopping(io.StringIO):
        def write(self, text: str) -> int:
            event = json.loads(text) if text.strip() else {}
            if event.get("event") == "evaluation" and event["step"] >= step:
                group.stop()
            return len(text)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert worker_main._run(group, Stopping()) == protocol.EXIT_STOPPED
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return max(checkpoint.steps(group.folders[0]))


def test_second_ctrl_c_does_not_wait_for_a_hanging_worker(zygote, suite: str, tmp_path: Path) -> None:
    spec = write_algorithm(
        tmp_path, "Hangs", "if self.calls > 5:\n    open(__file__ + '.hangs', 'w').close(); time.sleep(1000)"
    )
    arguments = ["run", "--suite", suite, "--algo", spec, "--seeds", "1", "--device", "cpu", "--set", "random_steps=20"]
    parent = zygote.start([*arguments, "--results", str(tmp_path / "results")], tmp_path / "printed")
    until((tmp_path / "hangs.py.hangs").exists)
    os.kill(parent, signal.SIGINT)
    os.kill(parent, signal.SIGINT)  # asked twice, it does not wait
    assert zygote.wait(parent) == 130
    assert "interrupted" in (tmp_path / "printed").read_text()
