"""Interrupted and resumed runs give the same rows as uninterrupted ones."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from fakes import Toy, ToyConfig, Walk, make_cell, make_suite, without_clock
from msgspec.structs import replace
from training import interrupted, rows

import algos
from flowbench.learners.placement import Placement
from flowbench.plan.options import RunOptions
from flowbench.schedule.groups import Group
from flowbench.schedule.resources import Slots
from flowbench.schedule.runner import Runner
from flowbench.store import checkpoint, records
from flowbench.store.csv_rows import TABLES, RowWriter
from flowbench.store.records import RunRecord
from flowbench.train.build import build_trainer
from flowbench.train.events import Row, Save, SeedFailed

CPU = torch.device("cpu")


WALK = partial(Walk, 7)


def trainer(algorithm=Toy, config=None, seeds=(0, 1), env=WALK, **changes):
    placement = Placement(
        CPU, **{key: changes.pop(key) for key in ("stack", "environments", "evaluation") if key in changes}
    )
    options = {"steps": 60, "evaluate_every": 20, "evaluation_episodes": 2, "save_every": 10, **changes}
    return build_trainer(env, algorithm, config or ToyConfig(), seeds, placement=placement, **options)


@pytest.mark.parametrize("at", [10, 20, 30, 50, 60])  # also before anything is learned, and with an evaluation due
@pytest.mark.parametrize("stack", [False, True])
def test_a_resumed_run_gives_the_rows_of_an_uninterrupted_one(at: int, stack: bool) -> None:
    options = {"stack": stack, "config": ToyConfig(random_steps=12, recent_share=0.3, recent_window=5)}
    whole = trainer(**options)
    assert interrupted(partial(trainer, **options), at) == rows(whole.run())


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
@pytest.mark.parametrize("size", [1, 7, 13, 40])
def test_also_when_replay_has_overwritten_transitions(size: int, ends: str) -> None:
    options = {"config": ToyConfig(replay_size=size), "env": partial(Walk, 3, ends)}
    whole = trainer(**options)
    assert interrupted(partial(trainer, **options), 50) == rows(whole.run())


@pytest.mark.slow
@pytest.mark.parametrize("stack", [False, True])
def test_also_with_environments_and_evaluation_in_processes(stack: bool) -> None:
    options = {"environments": 2, "evaluation": 1, "stack": stack}
    whole = trainer(stack=stack)
    assert interrupted(partial(trainer, **options), 40) == rows(whole.run())


@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("name", algos.names())
def test_every_algorithm_resumes_exactly(name: str, stack: bool) -> None:
    cls = algos.find(name).load()
    options = {
        "algorithm": cls, "config": cls.Config(hidden=8, batch_size=4, random_steps=5), "stack": stack,
        "steps": 24, "evaluate_every": 8, "save_every": 4, "evaluation_episodes": 1,
    }  # fmt: skip
    whole = trainer(**options)
    assert interrupted(partial(trainer, **options), 12) == rows(whole.run())


def test_how_often_is_saved_changes_no_row() -> None:
    seldom, often = trainer(save_every=None), trainer(save_every=1)
    assert rows(seldom.run()) == rows(often.run())


def test_a_run_that_is_asked_to_stop_saves_and_ends() -> None:
    stopped = trainer(save_every=None)
    happened = []
    for each in stopped.run():
        happened.append(each)
        if isinstance(each, Row) and each.values["step"] == 14:
            stopped.stop()
    assert isinstance(happened[-1], Save)
    assert happened[-1].step == stopped.step == 14


def test_a_run_that_is_asked_to_stop_at_its_last_step_is_not_taken_for_finished() -> None:
    stopped = trainer()
    for each in stopped.run():
        if isinstance(each, Row) and each.values["step"] == 56:
            stopped.stop()
    assert (stopped.step, stopped.finished) == (56, False)
    late = trainer()
    happened = []
    for each in late.run():
        happened.append(each)
        if isinstance(each, Save) and each.step == 60:
            late.stop()
    assert late.finished == any(isinstance(each, Row) and each.values["step"] == 60 for each in happened)


def test_an_environment_that_does_not_repeat_itself_is_named(capsys) -> None:
    class Restless(Walk):
        made = 0

        def reset(self, *, seed=None, options=None):
            Restless.made += 1
            return super().reset(seed=Restless.made)

    interrupted(partial(trainer, env=Restless), 10)
    assert "seed 0 cannot resume exactly: the environment returns a different observation" in capsys.readouterr().err


def test_an_environment_may_change_its_action(capsys) -> None:
    class Scales(Walk):
        def step(self, action):
            given = super().step(action)
            action *= 0.5
            return given

    whole = trainer(env=partial(Scales, 50), save_every=10)
    expected = rows(whole.run())
    states, chunks, found = None, [[], []], []
    for at in (20, 30, None):  # twice within one episode: the second time from what the first has replayed
        part = trainer(env=partial(Scales, 50), save_every=10)
        if states:
            assert part.restore(states, chunks) == []
        start = part.transitions(0, 0)["numbers"][0] if not states else int(chunks[0][-1]["numbers"][1])
        for happened in part.run():
            found.append(happened)
            if isinstance(happened, Save) and happened.step == at:
                for index, chunk in enumerate(chunks):
                    chunk.append(part.transitions(index, int(start)))
                states = [part.state(index) for index in range(2)]
                break
        part.close()
    assert rows(found) == expected


# Files


SUITE = make_suite(steps=450, every=150)


def prepared(root: Path, seeds=(0,), algo="td3", **changes) -> list[Path]:
    folders = []
    for seed in seeds:
        cell = make_cell(algo, seed=seed, suite=SUITE, random_steps=100)
        folders.append(root / cell.path)
        settings = {"device": "cpu", "threads": 1, "checkpoint_every": 50, **changes}
        records.write_run(folders[-1], replace(RunRecord.of(cell, list(seeds)), **settings))
    return folders


def start(*folders: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "flowbench.worker", *map(str, folders)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for(condition, process, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


def tables(folder: Path) -> list[str]:
    return [without_clock(folder / table) for table in ("evals.csv", "train.csv")]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The tables of a run that was never stopped."""
    (folder,) = prepared(tmp_path_factory.mktemp("unbroken"))
    run_to_the_end(folder)
    return tables(folder)


def left_at(root: Path, **changes) -> Path:
    """A run with two checkpoints, stopped after the second."""
    (folder,) = prepared(root, **changes)
    process = start(folder)
    wait_for(lambda: len(checkpoint.steps(folder)) == 2, process)
    process.kill()
    process.wait()
    process.stderr.close()
    return folder


def run_to_the_end(*folders: Path) -> None:
    process = start(*folders)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


@pytest.mark.slow
def test_without_its_newest_state_a_run_resumes_from_the_checkpoint_before(unbroken, tmp_path: Path) -> None:
    folder = left_at(tmp_path)
    older, newer = checkpoint.steps(folder)
    (folder / "checkpoint" / f"{newer}.state.safetensors").unlink()
    run_to_the_end(folder)
    assert records.read_run(folder).resumed[0].step == older
    assert tables(folder) == unbroken


@pytest.mark.slow
def test_without_a_whole_checkpoint_it_starts_over(unbroken, tmp_path: Path) -> None:
    folder = left_at(tmp_path)
    for path in (folder / "checkpoint").glob("*.state.safetensors"):
        path.write_bytes(b"")
    run_to_the_end(folder)
    assert records.read_run(folder).resumed is None
    assert tables(folder) == unbroken


@pytest.mark.slow
def test_checkpoints_are_kept_on_request_and_write_what_is_new_alone(tmp_path: Path) -> None:
    (folder,) = prepared(tmp_path, keep_checkpoints=True)
    run_to_the_end(folder)
    assert checkpoint.steps(folder) == [400, 450]
    chunks = sorted((folder / "checkpoint").glob("*.replay.safetensors"))
    assert {path.name.split(".")[0] for path in chunks} == {f"{n}-{n + 50}" for n in range(0, 450, 50)}
    assert len({path.stat().st_size for path in chunks}) <= 3  # all of fifty transitions
    for step in (400, 450):
        found = checkpoint.load(folder, step)
        assert len(found.transitions) == step // 50
    # A finished run is not resumed.
    before = (folder / "evals.csv").read_bytes()
    cell = make_cell("td3", suite=SUITE, random_steps=100)
    (outcome,) = Runner(tmp_path, Slots(1, "cpu", 1), lambda *_: None, RunOptions()).run([Group((cell,))])
    assert outcome.status == "done"
    assert (folder / "evals.csv").read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["files"].update({"../../../run.json": "0"}),
        lambda m: m["files"].update({"/etc/passwd": "0"}),
        lambda m: m["tables"].update({"../seed-1/evals.csv": 3}),
        lambda m: m.update(files=[]),
        lambda m: m.update(files=list(m["files"])),
        lambda m: m["tables"].update({"evals.csv": -1}),
        lambda m: m["tables"]["evals.csv"].update(bytes=-1),
        lambda m: m["tables"]["evals.csv"].update(bytes=3),
        lambda m: m["tables"].pop("train.csv"),
        lambda m: m.update(tables={}),
        lambda m: m.pop("tables"),
    ],
)
def test_a_wrong_manifest_is_rejected(tmp_path: Path, change) -> None:
    writer = checkpoint.Writer(tmp_path)
    for table in TABLES:
        (tmp_path / table).write_text("step\n")
    chunk = {"numbers": torch.tensor([0, 3]), "obs": torch.zeros(3, 2)}
    writer.write(writer.snapshot(3, TABLES, {"a": torch.ones(2)}, lambda start: chunk, 3))
    assert checkpoint.load(tmp_path, 3).state["a"].tolist() == [1, 1]
    path = tmp_path / "checkpoint" / "3.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(checkpoint.Damaged):
        checkpoint.load(tmp_path, 3)


def test_a_checkpoint_of_another_schema_is_reported(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "3.json").write_text('{"schema": 99, "step": 3, "tables": {"evals.csv": 7}}')
    with pytest.raises(checkpoint.Damaged, match=r"3\.json: schema 99; this flowbench reads schema \d"):
        checkpoint.load(tmp_path, 3)


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_link_in_place_of_checkpoints_is_removed_and_its_target_is_not(tmp_path: Path, kind: str) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    for folder in (run, elsewhere):
        folder.mkdir()
    (elsewhere / "7.json").write_text("{}")
    if kind == "link":
        (run / "checkpoint").symlink_to(elsewhere)
    else:
        (run / "checkpoint").write_text("")
    assert checkpoint.steps(run) == []
    checkpoint.remove(run)
    assert list(run.iterdir()) == []
    assert [path.name for path in elsewhere.iterdir()] == ["7.json"]


def test_other_files_are_removed_from_the_checkpoint_folder(tmp_path: Path) -> None:
    writer = checkpoint.Writer(tmp_path)
    for table in TABLES:
        (tmp_path / table).write_text("step\n")
    writer.write(writer.snapshot(3, TABLES, {}, lambda start: {"numbers": torch.tensor([0, 3])}, 3))
    for name in ("0999.json", "-5.json", "\u0669.json"):
        (tmp_path / "checkpoint" / name).write_text("{}")
    for name in ("900.json", "other"):
        (tmp_path / "checkpoint" / name).mkdir()
    (tmp_path / "checkpoint" / "link").symlink_to(tmp_path / "evals.csv")
    assert checkpoint.steps(tmp_path) == [3, 900]
    (found,) = checkpoint.newest([tmp_path])
    assert found.step == 3
    checkpoint.Writer.resume(tmp_path, 3)
    names = {path.name for path in (tmp_path / "checkpoint").iterdir()}
    assert names == {"3.json", "3.state.safetensors", "0-3.replay.safetensors"}
    assert (tmp_path / "evals.csv").exists()


def test_the_target_of_a_link_to_a_table_is_not_changed(tmp_path: Path) -> None:
    writer = checkpoint.Writer(tmp_path)
    for table in TABLES:
        (tmp_path / table).write_text("step\n")
    writer.write(writer.snapshot(3, TABLES, {}, lambda start: {"numbers": torch.tensor([0, 3])}, 3))
    (tmp_path / "evals.csv").rename(tmp_path / "mine")
    (tmp_path / "evals.csv").symlink_to(tmp_path / "mine")
    with pytest.raises(checkpoint.Damaged):
        checkpoint.load(tmp_path, 3)
    RowWriter(tmp_path / "evals.csv", ["other"]).close()
    assert (tmp_path / "mine").read_text() == "step\n"


class Doomed(Toy):
    """Logs NaN from a third of the run on, for about one seed in two."""

    def __init__(self, obs_dim, act_dim, config):
        super().__init__(obs_dim, act_dim, config)
        self.register_buffer("doom", (torch.rand(()) > 0.5).float())

    def critic_loss(self, batch):
        loss, diagnostics = super().critic_loss(batch)
        late = (batch.progress > 0.33) & (self.doom > 0)
        return loss, {**diagnostics, "late": torch.where(late, math.nan, 0.0)}


@pytest.mark.parametrize("at", [10, 30, 40, 50])
@pytest.mark.parametrize("stack", [False, True])
def test_a_failed_seed_stays_failed_after_a_resume_and_the_others_continue(at: int, stack: bool) -> None:
    options = {"algorithm": Doomed, "seeds": (0, 1, 2, 3), "stack": stack}
    whole = trainer(**options)
    happened = list(whole.run())
    assert 1 <= len([each for each in happened if isinstance(each, SeedFailed)]) <= 3
    assert interrupted(partial(trainer, **options), at) == rows(happened)
