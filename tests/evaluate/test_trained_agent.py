"""`flowbench eval`: evaluates trained weights and records videos."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from fakes import make_cell, make_suite, write_algorithm
from gymnasium import spaces
from msgspec.structs import replace

import algos
from flowbench.plan.options import RunOptions
from flowbench.schedule.groups import Group
from flowbench.schedule.resources import Slots
from flowbench.schedule.runner import Runner
from flowbench.store import weights
from flowbench.store.records import RunRecord


class Lamp(gymnasium.Env):
    """A white light under a black sky, one pixel further to the right with each step of ten."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

    def step(self, action):
        self.steps += 1
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), float(action[0]), False, False, {}

    def render(self):
        if self.render_mode is None:
            return None
        picture = np.zeros((40, 88, 3), np.uint8)
        picture[30:, 8 * self.steps : 8 * self.steps + 8] = 255
        return picture


@pytest.fixture
def lamp():
    gymnasium.register("Lamp-v0", Lamp, max_episode_steps=10)
    yield
    gymnasium.registry.pop("Lamp-v0")


def kept(folder: Path, name="td3", task="Pendulum-v1", target=None, source="gymnasium", sizes=(3, 1)) -> Path:
    """A folder with weights as a run leaves them, but random and not trained."""
    suite = make_suite(tasks=(task,), source=source, episodes=2)
    cell = make_cell(name, suite=suite, target=target)
    agent = cell.variant.entry.load()(*sizes, cell.variant.config)
    folder.mkdir(parents=True, exist_ok=True)
    weights.write(folder, replace(RunRecord.of(cell, [0]), threads=1), 40, *sizes, agent.state_dict())
    return folder


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["td3", "flowrl"])  # FlowRL draws noise when it is evaluated
@pytest.mark.slow
def test_the_seed_of_the_run_repeats_its_last_evaluation(name, flowbench, tmp_path) -> None:
    suite = make_suite(steps=60, every=30, episodes=3)
    cells = tuple(make_cell(name, seed=seed, suite=suite) for seed in (3, 4))
    outcomes = Runner(tmp_path, Slots(1, "cpu", 1), lambda *_: None, RunOptions(keep_weights=True)).run([Group(cells)])
    assert {outcome.status for outcome in outcomes} == {"done"}
    before = contents(tmp_path)
    for cell in cells:
        *_, last = csv.DictReader((tmp_path / cell.path / "evals.csv").open())
        status, out, err = flowbench("eval", cell.path, "--results", tmp_path, "--seed", cell.seed, "--format", "json")
        assert status == 0, err
        result = json.loads(out)
        assert result["step"] == int(last["step"]) == 60
        assert [result["mean"], result["std"]] == [float(last["mean"]), float(last["std"])]
        assert result["returns"] == [float(last[f"return_{k}"]) for k in range(3)]
        other = json.loads(flowbench("eval", cell.path, "--results", tmp_path, "--format", "json")[1])
        assert other["evaluation_seed"] != cell.seed
        assert not set(other["returns"]) & set(result["returns"])
    assert contents(tmp_path) == before


def test_statistics_of_an_evaluation(flowbench, tmp_path) -> None:
    folder = kept(tmp_path / "run")
    status, out, _ = flowbench("eval", folder, "--episodes", "4", "--format", "json")
    result = json.loads(out)
    assert (status, result["episodes"], result["lengths"]) == (0, 4, [200] * 4)
    returns = np.array(result["returns"])
    assert [result[key] for key in ("mean", "std", "min", "max")] == pytest.approx(
        [returns.mean(), returns.std(), returns.min(), returns.max()]
    )
    assert result["score"] == pytest.approx((returns.mean() + 1500) / 1500)
    again = flowbench("eval", folder / "weights.safetensors", "--episodes", "4")[1]
    assert f"{returns.mean():.1f}" in again
    assert "td3 Pendulum-v1 seed 0 at step 40" in again


@pytest.mark.slow
def test_the_first_episode_is_recorded_upright(lamp, flowbench, tmp_path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    folder = kept(tmp_path / "run", task="Lamp-v0")
    bare = json.loads(flowbench("eval", folder, "--format", "json")[1])
    for suffix in ("mp4", "gif"):
        path = tmp_path / f"lamp.{suffix}"
        status, out, err = flowbench("eval", folder, "--video", path, "--format", "json")
        assert (status, err) == (0, "")
        assert json.loads(out) == bare  # recording changes nothing
        about, *frames = ffmpeg.read_frames(str(path))
        width, height = about["size"]
        assert (width, height) == ((88, 40) if suffix == "mp4" else (44, 20))
        assert about["fps"] == pytest.approx(10)
        pictures = [np.frombuffer(frame, np.uint8).reshape(height, width, 3).mean(axis=2) for frame in frames]
        assert len(pictures) == 11
        for number, picture in enumerate(pictures):
            assert picture[: height // 2].max() < 60
            assert picture[-height // 8 :].mean(axis=0).argmax() // (width // 11) == number


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "there is no run 'absent'"),
        (["run", "--video", "video.avi"], "unknown suffix '.avi'"),
        (["run", "--video", "nowhere/video.mp4"], "there is no folder 'nowhere'"),
        (["run", "--episodes", "none"], "--episodes 'none'"),
        (["run", "--format", "csv"], "unknown format 'csv'"),
        (["run", "--seed", "-1"], "--seed"),
    ],
)
def test_usage_error_is_one_line(arguments, message, flowbench, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept(tmp_path / "run")
    status, out, err = flowbench("eval", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_video_without_its_extra_is_rejected(flowbench, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("flowbench.evaluate.video.find_spec", lambda name: None)
    status, _, err = flowbench("eval", kept(tmp_path / "run"), "--video", tmp_path / "video.mp4")
    assert (status, "[video]" in err) == (2, True)


@pytest.mark.slow
def test_rendering_failure_is_one_line(tmp_path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    folder = kept(tmp_path / "run", task="pendulum-swingup", source="dm_control")
    code = "import sys; from flowbench.cli import main; main(sys.argv[1:])"
    ended = subprocess.run(
        [sys.executable, "-c", code, "eval", str(folder), "--video", str(tmp_path / "video.mp4")],
        env={**os.environ, "MUJOCO_GL": "disable"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert "cannot render on this machine" in ended.stderr
    assert not (tmp_path / "video.mp4").exists()


def test_a_changed_algorithm_file_is_rejected_before_it_runs(flowbench, tmp_path) -> None:
    spec = write_algorithm(tmp_path, "Own", "pass")
    folder = kept(tmp_path / "run", "own", target=spec)
    assert flowbench("eval", folder, "--episodes", "1", "--algo", spec)[0] == 0
    path = Path(spec.rpartition(":")[0])
    path.write_text(path.read_text() + "\nprint('ran')\n")
    status, out, err = flowbench("eval", folder, "--episodes", "1", "--algo", spec)
    assert (status, out) == (2, "")
    assert "own.py:Own was changed since it was trained" in err
    path.unlink()
    assert flowbench("eval", folder, "--algo", spec)[0] == 2


def test_a_file_named_only_by_the_record_is_not_run(flowbench, tmp_path) -> None:
    folder = kept(tmp_path / "run", "own", target=write_algorithm(tmp_path, "Own", "print('ran')"))
    status, out, err = flowbench("eval", folder, "--episodes", "1")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "give it with --algo" in err


def test_a_file_is_rejected_for_an_algorithm_of_flowbench(flowbench, tmp_path) -> None:
    status, _, err = flowbench("eval", kept(tmp_path / "run"), "--algo", write_algorithm(tmp_path, "Own", "pass"))
    assert (status, err.count("\n")) == (2, 1)
    assert "is part of flowbench, not a user's file" in err


def test_an_unknown_module_is_not_imported(flowbench, tmp_path, monkeypatch) -> None:
    (tmp_path / "elsewhere.py").write_text("print('ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    folder = kept(tmp_path / "run")
    found = weights.find(str(folder), tmp_path)
    for name in ("td3", "elsewhere"):
        algo = replace(found.run.algo, name=name, label=name, target="elsewhere:TD3", sha256=None)
        weights.write(folder, replace(found.run, algo=algo), 40, 3, 1, found.weights)
        status, out, err = flowbench("eval", folder)
        assert (status, out, err.count("\n")) == (2, "", 1)
    assert "elsewhere" not in sys.modules


def test_weights_of_other_sizes_are_rejected(flowbench, tmp_path) -> None:
    folder = kept(tmp_path / "run")
    found = weights.find(str(folder), tmp_path)
    weights.write(folder, found.run, 40, 4, 1, found.weights)
    status, _, err = flowbench("eval", folder)
    assert (status, err.count("\n")) == (2, 1)
    assert "does not fit the td3 of this flowbench" in err
    folder = kept(tmp_path / "other", sizes=(4, 1))
    status, _, err = flowbench("eval", folder)
    assert (status, "observations and actions of 4 and 1, not 3 and 1" in err) == (2, True)
    weights.write(folder, replace(found.run, config={"absent": 1}), 40, 3, 1, found.weights)
    assert flowbench("eval", folder)[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", algos.names())
def test_every_algorithm_can_be_evaluated(name, flowbench, tmp_path) -> None:
    status, out, err = flowbench("eval", kept(tmp_path / "run", name), "--episodes", "1")
    assert status == 0, err
    assert f"{name} Pendulum-v1" in out
