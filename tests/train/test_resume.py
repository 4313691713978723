"""Runs that are stopped anywhere and go on: the same rows as if they had not been."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from fakes import Toy, ToyConfig, Walk, make_cell, make_suite, without_clock
from msgspec.structs import replace

import algos
from flowbench.plan.options import RunOptions
from flowbench.schedule.groups import Group, tidy
from flowbench.schedule.resources import Slots
from flowbench.schedule.runner import Runner
from flowbench.store import checkpoint, records
from flowbench.store.csv_rows import TABLES, RowWriter
from flowbench.store.records import RunRecord
from flowbench.train.events import Lost, Row, Save
from flowbench.train.placement import Places
from flowbench.train.trainer import Trainer
from flowbench.worker import protocol

CLOCK = ("seconds", "steps_per_second")
CPU = torch.device("cpu")


WALK = partial(Walk, 7)


def trainer(algorithm=Toy, config=None, seeds=(0, 1), env=WALK, **changes):
    places = Places(CPU, **{key: changes.pop(key) for key in ("stack", "environments", "evaluation") if key in changes})
    options = {"steps": 60, "evaluate_every": 20, "evaluation_episodes": 2, "save_every": 10, **changes}
    return Trainer(env, algorithm, config or ToyConfig(), seeds, places=places, **options)


def rows(happened) -> list[tuple[str, int, dict[str, float]]]:
    found = [each for each in happened if isinstance(each, Row)]
    found.sort(key=lambda row: (row.table, row.seed, row.values["step"]))
    return [(r.table, r.seed, {k: v for k, v in r.values.items() if k not in CLOCK}) for r in found]


def interrupted(at: int, **options):
    """The rows of a run that is left at the save of step `at` and gone on with by another trainer."""
    first = trainer(**options)
    before, chunks, start = [], [[] for _ in first.seeds], 0
    for happened in first.run():
        before.append(happened)
        if isinstance(happened, Save):
            for slot, chunk in enumerate(chunks):
                chunk.append(first.transitions(slot, start))
            start = int(chunks[0][-1]["numbers"][1])
            if happened.step == at:
                states = [first.state(slot) for slot in range(len(first.seeds))]
                break
    first.close()
    second = trainer(**options)
    for note in second.restore(states, chunks):
        print(note, file=sys.stderr)
    assert second.step == at
    after = list(second.run())
    second.close()
    return rows(before + after)


@pytest.mark.parametrize("at", [10, 20, 30, 50, 60])  # also before anything is learned, and with an evaluation due
@pytest.mark.parametrize("stack", [False, True])
def test_a_run_that_goes_on_gives_the_rows_of_one_that_never_stopped(at: int, stack: bool) -> None:
    options = {"stack": stack, "config": ToyConfig(random_steps=12, recent_share=0.3, recent_window=5)}
    whole = trainer(**options)
    assert interrupted(at, **options) == rows(whole.run())


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
@pytest.mark.parametrize("size", [1, 7, 13, 40])
def test_also_when_replay_has_forgotten(size: int, ends: str) -> None:
    options = {"config": ToyConfig(replay_size=size), "env": partial(Walk, 3, ends)}
    whole = trainer(**options)
    assert interrupted(50, **options) == rows(whole.run())


def test_also_with_environments_and_evaluation_in_processes() -> None:
    options = {"environments": 2, "evaluation": 1, "stack": True}
    whole = trainer(stack=True)
    assert interrupted(40, **options) == rows(whole.run())


@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("name", algos.names())
def test_every_algorithm_goes_on_exactly(name: str, stack: bool) -> None:
    cls = algos.find(name).load()
    options = {
        "algorithm": cls, "config": cls.Config(hidden=8, batch_size=4, random_steps=5), "stack": stack,
        "steps": 24, "evaluate_every": 8, "save_every": 4, "evaluation_episodes": 1,
    }  # fmt: skip
    whole = trainer(**options)
    assert interrupted(12, **options) == rows(whole.run())


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

    interrupted(10, env=Restless)
    assert "seed 0 cannot go on exactly: the environment gives another observation" in capsys.readouterr().err


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
                for slot, chunk in enumerate(chunks):
                    chunk.append(part.transitions(slot, int(start)))
                states = [part.state(slot) for slot in range(2)]
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
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, ...], list[list[str]]]:
    """The files of runs that were never stopped, by their seeds."""
    found = {}
    for seeds in ((0,), (0, 1)):
        folders = prepared(tmp_path_factory.mktemp("unbroken"), seeds)
        process = start(*folders)
        assert process.wait(120) == 0, process.stderr.read()
        process.stderr.close()
        found[seeds] = [tables(folder) for folder in folders]
    return found


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_killed_at_random_instants_the_files_are_the_same(seeds, unbroken, tmp_path: Path) -> None:
    folders = prepared(tmp_path, seeds)
    instants = random.Random(len(seeds))
    kills = 0
    for _ in range(6):
        process = start(*folders)
        saved = len(checkpoint.steps(folders[0])) and checkpoint.steps(folders[0])[-1]
        wait_for(lambda: [step for step in checkpoint.steps(folders[0]) if step > saved], process)  # noqa: B023
        time.sleep(instants.uniform(0.0, 0.4))
        if process.poll() is None:
            process.kill()
            kills += 1
        process.wait()
        process.stderr.close()
        if records.read_run(folders[0]).status == "done":
            break
    else:
        process = start(*folders)
        assert process.wait(120) == 0, process.stderr.read()
        process.stderr.close()
    assert kills >= 2
    assert [tables(folder) for folder in folders] == unbroken[seeds]
    run = records.read_run(folders[0])
    assert (run.status, run.error) == ("done", None)
    assert [attempt.step for attempt in run.resumed] == sorted(attempt.step for attempt in run.resumed)
    assert len(run.resumed) >= 2
    # The last kill may have come between the end and the removal, which the next command makes up for.
    tidy(tmp_path, [make_cell("td3", seed=seed, suite=SUITE, random_steps=100) for seed in seeds])
    assert not (folders[0] / "checkpoint").exists()


def test_asked_to_stop_it_saves_where_it_is(unbroken, tmp_path: Path) -> None:
    (folder,) = prepared(tmp_path, checkpoint_every=10_000)
    process = start(folder)
    table = folder / "train.csv"
    wait_for(lambda: table.exists() and len(table.read_text().splitlines()) > 1, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == protocol.EXIT_STOPPED
    process.stderr.close()
    (step,) = checkpoint.steps(folder)
    assert 200 <= step <= 450
    assert records.read_run(folder).status == "stopped"
    process = start(folder)
    assert process.wait(120) == 0
    process.stderr.close()
    assert tables(folder) == unbroken[(0,)][0]


def left_at(root: Path, **changes) -> Path:
    """A run with two checkpoints, stopped after the second."""
    (folder,) = prepared(root, **changes)
    process = start(folder)
    wait_for(lambda: len(checkpoint.steps(folder)) == 2, process)
    process.kill()
    process.wait()
    process.stderr.close()
    return folder


@pytest.mark.parametrize("harm", ["cut", "noise", "gone", "manifest"])
def test_a_torn_checkpoint_is_passed_over_for_the_one_before(unbroken, tmp_path: Path, harm: str) -> None:
    folder = left_at(tmp_path)
    older, newer = checkpoint.steps(folder)
    state = folder / "checkpoint" / f"{newer}.state.safetensors"
    if harm == "manifest":
        state.with_name(f"{newer}.json").write_text("{")
    elif harm == "gone":
        state.unlink()
    else:
        content = bytearray(state.read_bytes())
        content = content[: len(content) // 2] if harm == "cut" else content
        content[len(content) // 2] ^= 255
        state.write_bytes(content)
    process = start(folder)
    assert process.wait(120) == 0
    process.stderr.close()
    assert records.read_run(folder).resumed[0].step == older
    assert tables(folder) == unbroken[(0,)][0]


def test_without_a_whole_checkpoint_it_starts_over(unbroken, tmp_path: Path) -> None:
    folder = left_at(tmp_path)
    for path in (folder / "checkpoint").glob("*.state.safetensors"):
        path.write_bytes(b"")
    process = start(folder)
    assert process.wait(120) == 0
    process.stderr.close()
    assert records.read_run(folder).resumed is None
    assert tables(folder) == unbroken[(0,)][0]


def test_checkpoints_are_kept_on_request_and_write_what_is_new_alone(tmp_path: Path) -> None:
    (folder,) = prepared(tmp_path, keep_checkpoints=True)
    process = start(folder)
    assert process.wait(120) == 0
    process.stderr.close()
    assert checkpoint.steps(folder) == [400, 450]
    chunks = sorted((folder / "checkpoint").glob("*.replay.safetensors"))
    assert {path.name.split(".")[0] for path in chunks} == {f"{n}-{n + 50}" for n in range(0, 450, 50)}
    assert len({path.stat().st_size for path in chunks}) <= 3  # all of fifty transitions
    for step in (400, 450):
        found = checkpoint.load(folder, step)
        assert len(found.transitions) == step // 50
    # A done run is not gone on with.
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
def test_a_manifest_that_leads_elsewhere_is_refused(tmp_path: Path, change) -> None:
    writer = checkpoint.Writer(tmp_path)
    for table in TABLES:
        (tmp_path / table).write_text("step\n")
    chunk = {"numbers": torch.tensor([0, 3]), "obs": torch.zeros(3, 2)}
    writer.write(3, TABLES, {"a": torch.ones(2)}, lambda start: chunk, 3)
    assert checkpoint.load(tmp_path, 3).state["a"].tolist() == [1, 1]
    path = tmp_path / "checkpoint" / "3.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(checkpoint.Torn):
        checkpoint.load(tmp_path, 3)


def test_a_checkpoint_of_another_schema_is_told_as_that(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "3.json").write_text('{"schema": 99, "step": 3, "tables": {"evals.csv": 7}}')
    with pytest.raises(checkpoint.Torn, match=r"3\.json: schema 99; this flowbench reads schema \d"):
        checkpoint.load(tmp_path, 3)


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_stands_in_a_checkpoints_place_is_removed_and_what_it_leads_to_is_not(tmp_path: Path, kind: str) -> None:
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


def test_what_is_no_checkpoint_is_swept_out_of_the_folder(tmp_path: Path) -> None:
    writer = checkpoint.Writer(tmp_path)
    for table in TABLES:
        (tmp_path / table).write_text("step\n")
    writer.write(3, TABLES, {}, lambda start: {"numbers": torch.tensor([0, 3])}, 3)
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


def test_a_table_that_leads_elsewhere_is_left_alone(tmp_path: Path) -> None:
    writer = checkpoint.Writer(tmp_path)
    for table in TABLES:
        (tmp_path / table).write_text("step\n")
    writer.write(3, TABLES, {}, lambda start: {"numbers": torch.tensor([0, 3])}, 3)
    (tmp_path / "evals.csv").rename(tmp_path / "mine")
    (tmp_path / "evals.csv").symlink_to(tmp_path / "mine")
    with pytest.raises(checkpoint.Torn):
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
def test_a_seed_that_was_lost_stays_lost_and_leaves_the_others_as_they_were(at: int, stack: bool) -> None:
    options = {"algorithm": Doomed, "seeds": (0, 1, 2, 3), "stack": stack}
    whole = trainer(**options)
    happened = list(whole.run())
    assert 1 <= len([each for each in happened if isinstance(each, Lost)]) <= 3
    assert interrupted(at, **options) == rows(happened)


def test_the_same_command_goes_on_with_a_grid_whose_processes_were_all_killed(tmp_path: Path) -> None:
    command = [
        sys.executable, "-c", "import sys; from flowbench.cli import main; sys.exit(main())", "run", "--suite", "quick",
        "--task", "cartpole-balance", "--algo", "td3", "--seeds", "2", "--stack", "2", "--steps", "800", "--jobs", "2",
        "--set", "hidden=16", "--set", "random_steps=300", "--checkpoint-every", "100", "--device", "cpu", "--results",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def folders(root: Path) -> list[Path]:
        return sorted(path.parent for path in root.glob("*/*/*/*/*/run.json"))

    whole = subprocess.run([*command, str(tmp_path / "whole")], env=environment, capture_output=True, check=False)
    assert whole.returncode == 0, whole.stderr
    broken = tmp_path / "broken"
    parent = subprocess.Popen([*command, str(broken)], env=environment, stdout=subprocess.DEVNULL)
    wait_for(lambda: len(folders(broken)) == 2 and len(checkpoint.steps(folders(broken)[1])) == 2, parent)
    child = records.read_run(folders(broken)[0]).pid
    parent.kill()
    os.kill(child, signal.SIGKILL)
    parent.wait()
    wait_for(lambda: records.status(folders(broken)[0]) == "stopped", parent, 5.0)
    again = subprocess.run([*command, str(broken)], env=environment, capture_output=True, check=False)
    assert again.returncode == 0, again.stderr
    for left, right in zip(folders(tmp_path / "whole"), folders(broken), strict=True):
        assert tables(left) == tables(right)
        run = records.read_run(right)
        assert run.group == [0, 1]
        assert run.resumed[0].step >= 100
