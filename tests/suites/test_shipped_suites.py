"""The suites that ship with flowbench: what is in them, and that reading them stays light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import suites

COUNTS = {
    "quick": 3,
    "small": 3,
    "dmc-easy": 9,
    "dmc-medium": 12,
    "dmc-hard": 7,
    "humanoid-bench": 14,
    "flowrl-paper": 15,
}


def tasks(name: str) -> set[str]:
    return {task.name for task in suites.load(name, check_tasks=False).tasks}


def test_every_file_is_listed() -> None:
    assert sorted(suites.names()) == sorted(path.stem for path in Path(suites.__file__).parent.glob("*.yaml"))
    assert sorted(suites.names()) == sorted(COUNTS)


@pytest.mark.parametrize("name", suites.names())
def test_every_suite_loads_and_its_tasks_exist(name: str) -> None:
    suite = suites.load(name)
    assert suite.name == name
    assert len(suite.tasks) == COUNTS[name]
    for task in suite.tasks:
        assert task.name in suites.tasks(task.source)
        assert task.action_repeat == {"quick": 8, "small": 4}.get(name, 1)
        assert suite.task(task.name) is task
        if task.source == "dm_control":
            assert task.score == suites.Score(0.0, 1000.0)


@pytest.mark.parametrize("name", suites.names())
def test_budgets(name: str) -> None:
    suite = suites.load(name, check_tasks=False)
    steps = {"quick": 2_000, "small": 8_000, "dmc-easy": 500_000}.get(name, 1_000_000)
    episodes = {"quick": 3, "small": 5, "flowrl-paper": 5}.get(name, 10)
    every = {"quick": 500, "small": 1_000}.get(name, 10_000)
    assert suite.steps == steps
    assert suite.comparable == (name not in ("quick", "small"))
    assert suite.evaluation == suites.Evaluation(every, episodes)
    assert suite.comparable or suite.note


def test_easy_and_medium_are_the_21_tasks_outside_dog_and_humanoid() -> None:
    assert not tasks("dmc-easy") & tasks("dmc-medium")
    assert tasks("dmc-easy") | tasks("dmc-medium") == {
        "acrobot-swingup", "ball_in_cup-catch", "cartpole-balance", "cartpole-balance_sparse", "cartpole-swingup",
        "cartpole-swingup_sparse", "cheetah-run", "finger-spin", "finger-turn_easy", "finger-turn_hard", "fish-swim",
        "hopper-hop", "hopper-stand", "pendulum-swingup", "quadruped-walk", "quadruped-run", "reacher-easy",
        "reacher-hard", "walker-stand", "walker-walk", "walker-run",
    }  # fmt: skip


def test_hard_is_dog_and_humanoid() -> None:
    assert tasks("dmc-hard") == {
        "dog-stand", "dog-walk", "dog-trot", "dog-run", "humanoid-stand", "humanoid-walk", "humanoid-run",
    }  # fmt: skip


def test_humanoid_bench_scores() -> None:
    bounds = {
        "walk": (2.377, 700), "stand": (10.545, 800), "run": (2.02, 700), "reach": (260.302, 12000),
        "hurdle": (2.214, 700), "crawl": (272.658, 700), "maze": (106.441, 1200), "sit_simple": (9.393, 750),
        "sit_hard": (2.448, 750), "balance_simple": (9.391, 800), "balance_hard": (9.044, 800),
        "stair": (3.112, 700), "slide": (3.191, 700), "pole": (20.09, 700),
    }  # fmt: skip
    suite = suites.load("humanoid-bench", check_tasks=False)
    assert {task.name: (task.score.low, task.score.high) for task in suite.tasks} == {
        f"h1-{name}": pair for name, pair in bounds.items()
    }


def test_flowrl_paper_is_three_and_six_and_six() -> None:
    paper = tasks("flowrl-paper")
    assert len(paper & (tasks("dmc-easy") | tasks("dmc-medium"))) == 3
    assert len(paper & tasks("dmc-hard")) == 6
    assert len(paper & tasks("humanoid-bench")) == 6
    # A task means the same, and is scored the same, in whichever suite it stands, but for the quick look.
    lasting = [name for name in suites.names() if name not in ("quick", "small")]
    everywhere = [task for name in lasting for task in suites.load(name, check_tasks=False).tasks]
    assert len(set(everywhere)) == len({task.name for task in everywhere})


def test_loading_is_light() -> None:
    code = """
import sys
import suites
for name in suites.names():
    suites.load(name, check_tasks=False)
heavy = {"dm_control", "gymnasium", "mujoco", "numpy", "pandas", "torch"} & set(sys.modules)
assert not heavy, heavy
suites.load("humanoid-bench", check_tasks=True)
heavy = {"dm_control", "humanoid_bench", "torch"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(suites.__file__).parents[1], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_sources() -> None:
    assert suites.sources() == ("dm_control", "humanoid_bench", "gymnasium")
    with pytest.raises(suites.SuiteError, match="did you mean 'gymnasium'"):
        suites.tasks("gymnasum")
    with pytest.raises(suites.SuiteError, match="did you mean 'dm_control'"):
        suites.make(suites.Task("dog-run", "dmcontrol", 1, suites.Score(0, 1)))
