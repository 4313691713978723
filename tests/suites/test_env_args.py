"""Keyword arguments of gymnasium environments, environments without a suite file, and missing packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import pytest
from fakes import make_cell, make_suite, put_run, write_suite

import suites
from flowbench import stats
from flowbench.common.errors import UsageError
from flowbench.plan.expand import expand
from flowbench.plan.request import Request
from flowbench.stats import cautions
from flowbench.store import records
from flowbench.store.load import load_results

GYM = {"source": "gymnasium", "score": {"low": -1600, "high": 0}, "overrides": {}}


def with_gravity(gravity: float | None) -> suites.Suite:
    arguments = {} if gravity is None else {"g": gravity}
    task = suites.Task("Pendulum-v1", "gymnasium", 1, suites.Score(-1500.0, 0.0), arguments)
    return suites.Suite("mini", "Mini", (task,), 40, suites.Evaluation(20, 1))


def test_arguments_reach_the_environment(tmp_path: Path) -> None:
    path = write_suite(tmp_path, **GYM, env_args={"g": 5.0}, tasks=[{"Pendulum-v1": {"env_args": {"g": 1}}}])
    (task,) = suites.load(path).tasks
    assert task.env_args == {"g": 1}
    assert suites.make(task).unwrapped.g == 1  # type: ignore[attr-defined]
    (task,) = suites.load(write_suite(tmp_path, **GYM, env_args={"g": 5.0}, tasks=["Pendulum-v1"])).tasks
    assert suites.make(task).unwrapped.g == 5.0  # type: ignore[attr-defined]
    assert hash(task) == hash(task)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({**GYM, "tasks": [{"Pendulum-v1": {"env_args": [1]}}]}, "tasks: Pendulum-v1: env_args: must be a mapping"),
        ({**GYM, "tasks": ["Pendulum-v1"], "env_args": {"render_mode": "human"}}, "'render_mode' cannot be"),
        ({**GYM, "tasks": ["Pendulum-v1"], "env_args": {"a b": 1}}, "'a b' cannot be"),
        ({**GYM, "tasks": ["Pendulum-v1"], "env_args": {"g": float("nan")}}, "env_args: g: must be text, a finite"),
        ({"env_args": {"g": 1}}, "only gymnasium environments take arguments, not dm_control"),
    ],
)
def test_arguments_that_are_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(suites.SuiteError, match=words):
        suites.load(write_suite(tmp_path, **changes))


def test_an_argument_that_the_environment_does_not_know() -> None:
    task = suites.Task("Pendulum-v1", "gymnasium", 1, suites.Score(0, 1), {"gravity": 3})
    with pytest.raises(suites.SuiteError, match=r"with env_args gravity=3: .*unexpected keyword") as caught:
        suites.make(task)
    assert "\n" not in str(caught.value)


def test_arguments_are_recorded_and_never_mixed(tmp_path: Path) -> None:
    folder = put_run(tmp_path, make_cell("sac", suite=with_gravity(5.0)))
    assert '"env_args"' in (folder / "run.json").read_text()
    assert records.read_run(folder).task.task() == with_gravity(5.0).tasks[0]
    for other in (3.0, None):
        with pytest.raises(UsageError, match=r"env_args is \{.*\} now, and was \{'g': 5.0\}"):
            records.check_same_task(tmp_path, make_cell("td3", suite=with_gravity(other)))
    records.check_same_task(tmp_path, make_cell("td3", suite=with_gravity(5.0)))
    # Folders that were merged by hand: the report says so, and --strict stops.
    plain = put_run(tmp_path, make_cell("td3", suite=with_gravity(None)))
    assert "env_args" not in (plain / "run.json").read_text()
    for each in (folder, plain):
        (each / "evals.csv").write_text("step,mean\n40,-100\n")
    found = load_results(tmp_path)
    table = stats.at_step(found.runs, found.evals, 40)
    (text,) = cautions.differences(found.runs, table)
    assert text.endswith('arguments of the environment on Pendulum-v1: {"g": 5.0} (sac) | {} (td3)')


# Without a suite file


def test_one_environment_is_a_suite_whose_scores_are_returns() -> None:
    (cell,) = Request(env="Pendulum-v1", algo=["sac"], seeds="1", steps=12_000).cells()
    assert (cell.suite.name, cell.task.name, cell.suite.steps) == ("env-pendulum-v1", "Pendulum-v1", 12_000)
    assert (cell.variant.label, cell.variant.protocol.every) == ("sac", 600)
    assert cell.task.score.normalise(-123.4) == -123.4
    assert not cell.suite.comparable
    assert "Scores are returns" in cell.suite.note
    assert suites.single("gymnasium:Pendulum-v1").name == "env-gymnasium-pendulum-v1"
    assert len(expand(suites.single("Pendulum-v1"), ["sac"], "2")) == 2


def test_the_command_runs_one_environment(flowbench: Any, tmp_path: Path) -> None:
    status, out, _ = flowbench("run", "--env", "Pendulum-v1", "--algo", "sac", "--dry-run", "--results", tmp_path,
                               "--device", "cpu")  # fmt: skip
    assert status == 0
    assert "sac Pendulum-v1" in out
    assert "100,000" in out
    for options, words in (
        (["--env", "Pendulm-v1"], "did you mean 'Pendulum-v1'"),
        (["--env", "Pendulum-v1", "--suite", "quick"], "leave out --env Pendulum-v1"),
        ([], "--env"),
    ):
        status, out, err = flowbench("run", *options, "--algo", "sac", "--results", tmp_path)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert words in err


def test_a_report_on_returns_says_so(flowbench: Any, tmp_path: Path) -> None:
    for seed in range(2):
        cell = make_cell("sac", seed=seed, suite=suites.single("Pendulum-v1", 40))
        (put_run(tmp_path, cell) / "evals.csv").write_text(f"step,mean\n40,-{seed + 3}00.0\n")
    status, out, _ = flowbench("report", "--results", tmp_path, "--reps", 50)
    assert status == 0
    assert "scores are returns, not normalised; 50 bootstrap resamples" in out
    assert "normalised scores;" not in out
    assert "optimality gap" not in out.lower()
    for format in ("csv", "json", "latex"):
        text = flowbench("report", "--results", tmp_path, "--reps", 50, "--format", format)[1]
        assert "optimality gap" not in text.lower()
    drawn = ["--figures", tmp_path / "figures", "--html", tmp_path / "page.html"]
    assert flowbench("report", "--results", tmp_path, "--reps", 50, *drawn)[0] == 0
    assert "-350.0" in out


# Missing packages


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'imageio.v3'", name="imageio.v3"),
         "needs the package 'imageio', which is not installed; install it with: pip install imageio$"),
        (gymnasium.error.DependencyNotInstalled('No MuJoCo, run `pip install "gymnasium[mujoco]"`'),
         'needs a package that is not installed; install it with: pip install "gymnasium\\[mujoco\\]"$'),
        (gymnasium.error.DependencyNotInstalled("Box2D is not installed, you can install it by run "
                                                "`pip install swig` followed by `pip install gymnasium[box2d]`"),
         r"install it with: pip install swig && pip install gymnasium\[box2d\]$"),
        (ImportError("libGL.so: cannot open"), "cannot be made: libGL.so: cannot open$"),
    ],
)  # fmt: skip
def test_a_missing_package_is_named_with_its_command(error: Exception, words: str) -> None:
    def absent() -> Any:
        raise error

    gymnasium.register("Absent-v0", absent)
    try:
        with pytest.raises(suites.SuiteError, match=words) as caught:
            suites.make(suites.Task("Absent-v0", "gymnasium", 1, make_suite().tasks[0].score))
    finally:
        gymnasium.registry.pop("Absent-v0")
    assert "\n" not in str(caught.value)
