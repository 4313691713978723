"""HumanoidBench as a source: with a stand-in for the package, which is optional, and where it is installed for real."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

import suites
from suites import humanoid_bench

WALK = suites.Task("h1-walk", "humanoid_bench", 1, suites.Score(2.377, 700.0))


class StandIn(gymnasium.Env[Any, Any]):
    """Like the benchmark's: float64 observations, goals drawn from NumPy's global state, falls that terminate."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def __init__(self, render_mode: str | None = "rgb_array") -> None:
        self.render_mode = render_mode
        self.task = SimpleNamespace(_env=self, unloaded=[])

    def render(self) -> Any:
        assert self.render_mode == "rgb_array"
        return np.zeros((4, 6, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.obs = np.array([np.random.uniform(), self.np_random.uniform()])
        return self.obs, {}

    def step(self, action: Any) -> tuple[Any, Any, Any, bool, dict[str, Any]]:
        assert np.abs(action).max() <= 1
        self.task.unloaded.append(1)
        return self.obs, np.float64(0.5), np.bool_(action[0] < 0), False, {"stand_reward": 0.1}


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, tuple[str, ...]]]:
    """Installs the stand-in; returns its list of MuJoCo's fields."""
    fields: dict[str, dict[str, tuple[str, ...]]] = {
        "mjmodel": {"qpos0": ("nq",), "of_an_older_mujoco": ("nq",)},
        "mjdata": {"qpos": ("nq",), "of_an_older_mujoco": ("nq",)},
    }
    dmc_sizes = ModuleType("humanoid_bench.dmc_deps.dmc_sizes")
    dmc_sizes.array_sizes = fields  # type: ignore[attr-defined]
    env = ModuleType("humanoid_bench.env")
    bars = {"walk": 700, "push": 650}
    env.TASKS = {task: SimpleNamespace(success_bar=bar) for task, bar in bars.items()}  # type: ignore[attr-defined]
    for module in (ModuleType("humanoid_bench"), ModuleType("humanoid_bench.dmc_deps"), dmc_sizes, env):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name, entry_point in (("h1-walk", StandIn), ("h1hand-push", StandIn), ("h1hand-kitchen", refused)):
        spec = EnvSpec(f"{name}-v0", entry_point, max_episode_steps=5)
        monkeypatch.setitem(gymnasium.registry, f"{name}-v0", spec)
    return fields


def refused(**settings: Any) -> gymnasium.Env[Any, Any]:
    raise ValueError("XML Error: no such element\nElement 'default', line 0")


def test_fields_that_mujoco_lacks_are_removed(sizes: dict[str, dict[str, tuple[str, ...]]]) -> None:
    assert hasattr(mujoco.MjModel, "qpos0")
    assert hasattr(mujoco.MjData, "qpos")
    suites.make(WALK)
    suites.make(WALK)
    assert sizes == {"mjmodel": {"qpos0": ("nq",)}, "mjdata": {"qpos": ("nq",)}}


def test_the_form_of_every_environment(sizes: object) -> None:
    env = suites.make(WALK)
    assert env.action_space == spaces.Box(-1.0, 1.0, (2,), np.float32)
    obs, _ = env.reset(seed=0)
    assert obs.dtype == np.float32
    assert obs in env.observation_space
    steps = [env.step(np.array([9.0, -9.0], np.float32)) for _ in range(5)]
    assert [step[2:4] for step in steps] == [(False, False)] * 4 + [(False, True)]
    assert all(type(step[1]) is float for step in steps)
    env.reset()
    *_, terminated, truncated, info = env.step(np.array([-1.0, 0.0], np.float32))
    assert (terminated, truncated, info) == (True, False, {"stand_reward": 0.1})


def test_a_task_goes_by_its_id_with_or_without_the_version(sizes: object) -> None:
    for name in ("h1hand-push", "h1hand-push-v0"):
        task = suites.Task(name, "humanoid_bench", 1, suites.Score(0.0, 1.0))
        suites.make(task).reset(seed=0)
        assert suites.success(task) == 650
    assert suites.success(WALK) == 700


def test_a_suite_of_hands(tmp_path: Path) -> None:
    file = tmp_path / "hands.yaml"
    file.write_text(
        "title: Hands\nsource: humanoid_bench\naction_repeat: 1\nsteps: 100\n"
        "evaluation: {every: 50, episodes: 1}\nscore: {low: 0, high: 700}\n"
        "tasks: [h1hand-push-v0, h1hand-walk-v0, h1strong-highbar_hard]\n"
    )
    assert len(suites.load(str(file)).tasks) == 3


def test_a_model_that_mujoco_does_not_take(sizes: object) -> None:
    with pytest.raises(suites.SuiteError, match=f"MuJoCo 3.1.6, and {mujoco.__version__} rejects it") as caught:
        suites.make(suites.Task("h1hand-kitchen-v0", "humanoid_bench", 1, suites.Score(0.0, 1.0)))
    assert "h1hand-kitchen-v0" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rule_of_success_is_this_sources_alone() -> None:
    assert suites.packages("humanoid_bench") == ("humanoid_bench",)
    for source, name in (("dm_control", "walker-run"), ("gymnasium", "Pendulum-v1")):
        assert suites.success(suites.Task(name, source, 1, WALK.score)) is None
        assert suites.packages(source) == ()


def test_only_what_is_to_be_rendered_is_made_with_a_context_to_draw_in(
    sizes: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "disable")
    assert suites.make(WALK).render_mode is None
    env = suites.make(WALK, render=True)
    env.reset(seed=0)
    assert env.render().shape == (4, 6, 3)  # type: ignore[union-attr]


def test_an_episode_knows_nothing_of_those_before_it(sizes: object) -> None:
    env = suites.make(WALK)
    for _ in range(2):
        env.reset(seed=0)
        env.step(np.zeros(2, np.float32))
        assert len(env.unwrapped.task.unloaded) == 1  # type: ignore[attr-defined]


def test_action_repeat(sizes: object) -> None:
    env = suites.make(suites.Task("h1-walk", "humanoid_bench", 2, WALK.score))
    env.reset(seed=0)
    action = np.zeros(2, np.float32)
    assert [env.step(action)[1:4] for _ in range(3)] == [(1.0, False, False), (1.0, False, False), (0.5, False, True)]


def test_seeds_decide_what_comes_from_the_global_state(sizes: object) -> None:
    env, other = suites.make(WALK), suites.make(WALK)
    np.random.seed(0)
    before = np.random.get_state()[1:3]
    first, _ = env.reset(seed=7)
    second, _ = env.reset()
    np.random.seed(1)
    other.reset(seed=8)
    np.testing.assert_array_equal(other.reset(seed=7)[0], first)
    np.testing.assert_array_equal(other.reset()[0], second)
    assert (env.reset(seed=9)[0] != first).all()
    np.random.seed(0)
    env.reset(seed=1)
    after = np.random.get_state()[1:3]
    np.testing.assert_array_equal(after[0], before[0])
    assert after[1] == before[1]


@pytest.mark.parametrize("missing", ["humanoid_bench", "jax"])
def test_without_the_package(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Blocked:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "humanoid_bench":
                raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.delitem(sys.modules, "humanoid_bench", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Blocked(), *sys.meta_path])
    with pytest.raises(suites.SuiteError, match="pip install") as caught:
        suites.make(WALK)
    message = str(caught.value)
    with pytest.raises(suites.SuiteError, match="pip install"):
        suites.require("humanoid_bench")
    assert "h1 tasks" in message
    assert repr(missing) in message
    assert "\n" not in message


def test_names_need_no_package() -> None:
    names = suites.tasks("humanoid_bench")
    assert len(names) == len(set(names)) == 111
    assert {task.name for task in suites.load("humanoid-bench").tasks} < set(names)
    assert {"h1hand-push", "h1hand-insert_small", "h1strong-highbar_hard"} < set(names)
    with pytest.raises(suites.SuiteError, match="did you mean 'h1-sit_simple'"):
        suites.make(suites.Task("h1-sit-simple", "humanoid_bench", 1, WALK.score))


# The package itself

installed = pytest.mark.skipif(find_spec("humanoid_bench") is None, reason="needs HumanoidBench: docs/suites.md")
LOCOMOTION = suites.load("humanoid-bench", check_tasks=False).tasks


def episode(env: Any, seed: int) -> list[tuple[Any, ...]]:
    """Random actions to the end: (obs, reward, terminated, truncated, info) of every step, the first after a reset."""
    random = np.random.default_rng(seed)
    obs, info = env.reset(seed=seed)
    steps: list[tuple[Any, ...]] = [(obs, 0.0, False, False, info)]
    while not (steps[-1][2] or steps[-1][3]):
        steps.append(env.step(random.uniform(-1, 1, env.action_space.shape).astype(np.float32)))
    return steps


@installed
@pytest.mark.parametrize("task", LOCOMOTION, ids=lambda task: task.name)
def test_contract(task: suites.Task) -> None:
    env = suites.make(task)
    before = np.random.get_state()[1:3]
    first, again = episode(env, 3), episode(env, 3)
    after = np.random.get_state()[1:3]
    np.testing.assert_array_equal(after[0], before[0])
    assert after[1] == before[1]

    np.testing.assert_array_equal([step[0] for step in again], [step[0] for step in first])
    assert [step[1:4] for step in again] == [step[1:4] for step in first]
    assert (episode(env, 4)[0][0] != first[0][0]).any()
    assert env.action_space == spaces.Box(-1.0, 1.0, (19,), np.float32)
    assert all(step[0] in env.observation_space and step[0].dtype == np.float32 for step in first)
    assert np.isfinite([step[1] for step in first]).all()
    assert all(step[4]["per_timestep_reward"] == step[1] for step in first[1:])
    *_, terminated, truncated, _ = first[-1]
    assert terminated != truncated
    assert truncated == (len(first) == 1001)
    assert truncated == (task.name in ("h1-reach", "h1-crawl"))  # the others end when the robot falls
    assert env.unwrapped.render_mode is None
    assert suites.success(task) == task.score.high
    env.close()


@installed
def test_the_tasks_are_those_that_there_is_a_model_of() -> None:
    humanoid_bench.require()
    folder = Path(str(sys.modules["humanoid_bench"].__file__)).parent / "assets" / "envs"
    models = {"-".join((path.stem.split("_")[0], path.stem.split("_", 2)[2])) for path in folder.glob("*.xml")}
    assert set(suites.tasks("humanoid_bench")) == models - {"g1-truck"}


@installed
@pytest.mark.parametrize("name", [name for name in suites.tasks("humanoid_bench") if not name.startswith("h1touch")])
def test_other_tasks_can_be_made_and_stepped(name: str) -> None:
    task = suites.Task(name, "humanoid_bench", 1, suites.Score(0.0, 1.0))
    if name.endswith("-kitchen") and mujoco.__version__ != "3.1.6":
        with pytest.raises(suites.SuiteError, match=r"MuJoCo 3\.1\.6"):
            suites.make(task)
        return
    env = suites.make(task)
    action = np.full(env.action_space.shape, 0.5, np.float32)
    begun = []
    for seed in (0, 1, 0):
        first, _ = env.reset(seed=seed)
        second, reward, *_ = env.step(action)
        begun.append([*first, *second, reward])
        assert second in env.observation_space
    assert np.isfinite(begun).all()
    np.testing.assert_array_equal(begun[2], begun[0])
    assert suites.success(task) is not None
    env.close()
