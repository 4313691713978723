"""The Python API: its names, its errors, and what its functions return."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pandas as pd
import pytest
import torch
import typer
from fakes import EXAMPLE, TINY, Toy, ToyConfig, Walk, make_cell, make_suite, put_run, write_suite
from gymnasium import spaces

import flowbench as fb
from flowbench import api, cli
from flowbench.api.agent import TrainedAgent
from flowbench.common.errors import UsageError
from flowbench.report import Report
from flowbench.store import records
from flowbench.train.vecenv import EnvironmentFault

NOTEBOOK = Path(__file__).parents[2] / "docs" / "python-api.ipynb"
SAC = f"sac[{TINY}]"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two algorithms with three seeds each, done."""
    for algo, base in (("sac", -300.0), ("td3", -900.0)):
        for seed in range(3):
            folder = put_run(tmp_path / "results", make_cell(algo, seed=seed, suite=make_suite(steps=40, every=20)))
            (folder / "evals.csv").write_text(f"step,mean\n20,{base - 100}\n40,{base + seed}\n")
    return tmp_path / "results"


@pytest.mark.parametrize("name", ["run", "report", "compare"])
def test_arguments_have_the_names_of_the_options(name: str) -> None:
    (command,) = (each for each in cli.app.registered_commands if each.callback and each.callback.__name__ == name)
    made = typer.main.get_command_from_info(command, pretty_exceptions_short=False, rich_markup_mode=None)
    options = {
        next((option for option in each.opts if option.startswith("--")), f"--{each.name}") for each in made.params
    }
    names = {f"--{parameter.replace('_', '-')}" for parameter in inspect.signature(getattr(api, name)).parameters}
    assert names == options - {"--help"}


def test_the_package_offers_the_functions_also_after_its_packages_are_imported() -> None:
    import flowbench.report
    import flowbench.train

    assert set(fb.API) <= set(dir(fb))
    assert all(callable(getattr(fb, name)) for name in fb.API)
    assert fb.report.build is flowbench.report.assemble.build
    with pytest.raises(AttributeError, match="no attribute 'reprot'"):
        _ = fb.reprot


# Results


def test_results_are_two_tidy_tables(results: Path) -> None:
    found = fb.load(results)
    assert len(found.runs) == 6
    assert found.runs.set_index(["algo", "seed"])["status"].to_dict()["td3", 2] == "done"
    assert len(found.evals) == 12
    last = found.evals.query("algo == 'sac' and seed == 1 and step == 40").iloc[0]
    assert (last["mean"], last["score"]) == (-299.0, pytest.approx(1201 / 1500))
    assert set(fb.load(results, suite="mini", algo=["td3"]).runs["algo"]) == {"td3"}


def test_a_run_that_cannot_be_read_is_left_out_with_a_warning(results: Path) -> None:
    broken = next(records.folders(results)) / "run.json"
    broken.write_text("{}")
    with pytest.warns(UserWarning, match="left out: .*run.json"):
        found = fb.load(results)
    assert len(found.runs) == 5
    assert len(found.problems) == 1


def test_a_report_is_tables_or_the_text_of_the_command(results: Path, flowbench: Any, tmp_path: Path) -> None:
    built = fb.report(results, reps=50, html=tmp_path / "page.html")
    assert isinstance(built, Report)
    assert set(built.sections[0].per_task["algo"]) == {"sac", "td3"}
    assert "| sac" in built._repr_markdown_()
    assert "<html" in (tmp_path / "page.html").read_text(encoding="utf-8")
    for format in ("markdown", "latex", "csv", "json"):
        printed = flowbench("report", "--results", results, "--reps", 50, "--format", format)[1]
        assert fb.report(results, reps="50", format=format).rstrip("\n") == printed.rstrip("\n")
    assert "Missing: none of 6 runs" in fb.report(results, reps=50, format="table")


def test_a_comparison_is_tables_or_the_text_of_the_command(results: Path, flowbench: Any) -> None:
    made = fb.compare("sac", "td3", results=results, reps=50)
    assert list(made.of_suites[0].per_task["task"]) == ["Pendulum-v1"]
    assert "sac" in made._repr_markdown_()
    for format in ("markdown", "json"):
        printed = flowbench("compare", "sac", "td3", "--results", results, "--reps", 50, "--format", format)[1]
        assert fb.compare("sac", "td3", results=results, reps=50, format=format) == printed
    assert "sac is better on" in " ".join(fb.compare("sac", "td3", results=results, reps=50, format="table").split())


@pytest.mark.parametrize(
    ("name", "arguments", "options"),
    [
        ("run", {"suite": "quik", "algo": "sac"}, ["--suite", "quik", "--algo", "sac"]),
        ("run", {"suite": "quick", "algo": ["sca"]}, ["--suite", "quick", "--algo", "sca"]),
        ("run", {"suite": "quick", "algo": "sac", "steps": "0"}, ["--suite", "quick", "--algo", "sac", "--steps", "0"]),
        ("run", {"suite": "quick", "algo": "sac", "set": {"hiden": 1}},
         ["--suite", "quick", "--algo", "sac", "--set", "hiden=1"]),
        ("report", {"algo": "tdd3"}, ["--algo", "tdd3"]),
        ("report", {"format": "markdwn"}, ["--format", "markdwn"]),
        ("report", {"thin": True}, ["--thin"]),
        ("report", {"sort": "best"}, ["--sort", "best"]),
        ("report", {"label": {"tdd3": "TD3"}}, ["--label", "tdd3=TD3"]),
        ("report", {"baseline": "tdd3"}, ["--baseline", "tdd3"]),
        ("report", {"figure": {"curve": "a.pdf"}}, ["--figure", "curve=a.pdf"]),
        ("report", {"figure": {"curves": "a.pdf"}, "figure_size": "7"},
         ["--figure", "curves=a.pdf", "--figure-size", "7"]),
        ("compare", {"algo": "sac", "over": "td3", "label": "sac"}, ["sac", "td3", "--label", "sac"]),
        ("report", {"reps": "0"}, ["--reps", "0"]),
        ("compare", {"algo": "sac", "over": "sac"}, ["sac", "sac"]),
        ("compare", {"algo": "sac", "over": "td3", "format": "csv"}, ["sac", "td3", "--format", "csv"]),
    ],
)  # fmt: skip
def test_errors_are_those_of_the_command_line(
    name: str, arguments: dict[str, Any], options: list[str], results: Path, flowbench: Any
) -> None:
    status, _, err = flowbench(name, *options, "--results", results)
    with pytest.raises(ValueError, match=r".") as caught:
        getattr(fb, name)(**arguments, results=results)
    assert (status, err) == (2, f"flowbench: {' '.join(str(caught.value).split())}\n")


@pytest.mark.parametrize("seeds", [2, "2", [0, 1], range(2)])
def test_a_grid_is_planned_as_by_the_command(
    seeds: Any, tmp_path: Path, flowbench: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write_suite(tmp_path)
    printed = flowbench("run", "--suite", suite, "--algo", f"{SAC},td3", "--seeds", 2, "--set", "gamma=0.9",
                        "--dry-run", "--results", tmp_path / "none", "--device", "cpu")[1]  # fmt: skip
    settings = {"gamma": 0.9}
    status = fb.run(
        suite, [SAC, "td3"], seeds=seeds, set=settings, dry_run=True, results=tmp_path / "none", device="cpu"
    )
    assert (status, capsys.readouterr().out) == (0, printed)


# One agent


def test_an_agent_learns_exactly_as_in_a_grid(tmp_path: Path, flowbench: Any) -> None:
    suite = write_suite(tmp_path, source="gymnasium", tasks=["Pendulum-v1"], steps=250, overrides={},
                        evaluation={"every": 125, "episodes": 2})  # fmt: skip
    assert fb.run(suite, SAC, seeds=[3], results=tmp_path / "results", device="cpu", quiet=True) == 0
    row = fb.load(tmp_path / "results").runs.iloc[0]
    trained = fb.train(SAC, gymnasium.make("Pendulum-v1"), steps=250, every=125, episodes=2, seed=3, progress=False)
    for table, file in ((trained.evals, "evals.csv"), (trained.episodes, "train.csv")):
        kept = [column for column in table if column not in ("seconds", "steps_per_second")]
        written = pd.read_csv(Path(row["folder"]) / file, float_precision="round_trip")
        pd.testing.assert_frame_equal(table[kept], written[kept], rtol=0, atol=0)


def test_the_environment_is_left_as_it_was_and_the_agent_acts_within_its_bounds() -> None:
    env = Walk()
    trained = fb.train("td3", env, steps=60, set=TINY.split(","), progress=False)
    assert env.seeds == env.actions == []
    assert not env.closed
    assert list(trained.evals["step"]) == list(range(3, 61, 3))
    assert len(trained.episodes) == 12
    pendulum = fb.train(SAC, "Pendulum-v1", steps=30, every=30, episodes=1, progress=False)
    action = pendulum.act(np.array([1.0, 0.0, 0.0]))
    assert action in gymnasium.make("Pendulum-v1").action_space
    inner = pendulum.agent.act(torch.tensor([[1.0, 0.0, 0.0]]), explore=False).detach().numpy()[0]
    np.testing.assert_allclose(action, 2 * inner, rtol=1e-5)


def test_progress_is_shown_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    fb.train(f"{EXAMPLE}[{TINY}]", Walk, steps=30, every=30, episodes=1)
    out, err = capfd.readouterr()
    assert out == ""
    assert "ddpg" in err
    assert "step 30 of 30" in err


class Odd(Walk):
    """Spaces that cannot be trained."""

    def __init__(self, **changed: spaces.Space[Any]) -> None:
        super().__init__()
        for name, space in changed.items():
            setattr(self, name, space)

    def __deepcopy__(self, memo: Any) -> Odd:
        raise TypeError("cannot pickle 'simulator'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"env": "Pendulm-v1"}, "Pendulum-v1"),
        ({"env": 3}, "env 3 is not a gymnasium environment"),
        ({"env": lambda: 3}, "the function made 3"),
        ({"env": Odd()}, "cannot be copied .*simulator.*give a function"),
        ({"env": lambda: Odd(action_space=spaces.Discrete(2))}, "only flat, continuous .*actions are Discrete"),
        ({"env": lambda: Odd(observation_space=spaces.Box(0, 1, (4, 4)))}, "observations are Box"),
        ({"env": lambda: Odd(observation_space=spaces.Dict())}, "observations are Dict"),
        ({"env": lambda: Odd(action_space=spaces.Box(-np.inf, np.inf, (1,)))}, "every bound must be finite"),
        ({"algo": "sca"}, "unknown algorithm 'sca'"),
        ({"algo": "sac,td3"}, "one algorithm"),
        ({"set": {"hiden": 8}}, "hidden"),
        ({"steps": 10}, "random_steps"),
        ({"steps": "many"}, "--steps 'many'"),
        ({"every": 400}, "every 400"),
        ({"seed": -1}, "seed -1"),
        ({"device": "cdua"}, "unknown device 'cdua'"),
    ],
)
def test_a_mistake_is_one_clear_error(arguments: dict[str, Any], words: str) -> None:
    given = {"algo": SAC, "env": Walk, "steps": 300, "progress": False, **arguments}
    with pytest.raises(ValueError, match=words) as caught:
        fb.train(**given)
    assert "\n" not in str(caught.value)


def test_an_environment_that_fails_ends_the_training() -> None:
    class Fails(Walk):
        def step(self, action: Any) -> Any:
            raise RuntimeError("broken joint")

    with pytest.raises(EnvironmentFault, match="broken joint"):
        fb.train(SAC, Fails, steps=100, progress=False)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    sources = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for source in sources:
        exec(compile(source, str(NOTEBOOK), "exec"), names)
    assert len(sources) > 5
    assert len(names["found"].runs) == 4
    assert (names["found"].runs["status"] == "done").all()
    assert all(not cell.get("outputs") for cell in notebook["cells"])  # kept without outputs, which would get old


def test_usage_errors_are_value_errors() -> None:
    assert issubclass(UsageError, ValueError)


def test_a_trained_policy_with_memory_begins_episodes_anew() -> None:
    class Ages(Toy):
        def memory(self, obs):
            return {"age": obs.new_zeros(len(obs), 1)}

        def act(self, obs, explore, memory):
            return memory["age"] / 10, {"age": memory["age"] + 1}

    box = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    empty = pd.DataFrame()
    trained = TrainedAgent("ages", Ages(2, 1, ToyConfig()), ToyConfig(), empty, empty, box)
    assert [trained.act([0.0, 0.0]).item() for _ in range(3)] == pytest.approx([0.0, 0.1, 0.2])
    trained.begin_episode()
    assert trained.act([0.0, 0.0]).item() == 0.0
