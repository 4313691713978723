"""HumanoidBench as a source, with a stand-in for the package: it is optional, and not installed for tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium import spaces

import suites

WALK = suites.Task("h1-walk", "humanoid_bench", 1, suites.Score(2.377, 700.0))


class StandIn(gymnasium.Env[Any, Any]):
    """Like the benchmark's: float64 observations, goals drawn from NumPy's global state, falls that terminate."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def __init__(self, render_mode: str | None = "rgb_array") -> None:
        self.render_mode = render_mode

    def render(self) -> Any:
        assert self.render_mode == "rgb_array"
        return np.zeros((4, 6, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.obs = np.array([np.random.uniform(), self.np_random.uniform()])
        return self.obs, {}

    def step(self, action: Any) -> tuple[Any, Any, Any, bool, dict[str, Any]]:
        assert np.abs(action).max() <= 1
        return self.obs, np.float64(0.5), np.bool_(action[0] < 0), False, {"stand_reward": 0.1}


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[str, tuple[str, ...]]]]:
    """Installs the stand-in; yields its list of MuJoCo's fields."""
    fields: dict[str, dict[str, tuple[str, ...]]] = {
        "mjmodel": {"qpos0": ("nq",), "of_an_older_mujoco": ("nq",)},
        "mjdata": {"qpos": ("nq",), "of_an_older_mujoco": ("nq",)},
    }
    dmc_sizes = ModuleType("humanoid_bench.dmc_deps.dmc_sizes")
    dmc_sizes.array_sizes = fields  # type: ignore[attr-defined]
    for module in (ModuleType("humanoid_bench"), ModuleType("humanoid_bench.dmc_deps"), dmc_sizes):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    gymnasium.register("h1-walk-v0", StandIn, max_episode_steps=5)
    yield fields
    gymnasium.registry.pop("h1-walk-v0")


def test_the_field_list_is_mended(sizes: dict[str, dict[str, tuple[str, ...]]]) -> None:
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
    assert env.step(np.array([-1.0, 0.0], np.float32))[2:4] == (True, False)


def test_only_what_is_to_be_rendered_is_made_with_a_context_to_draw_in(
    sizes: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "disable")
    assert suites.make(WALK).render_mode is None
    env = suites.make(WALK, render=True)
    env.reset(seed=0)
    assert env.render().shape == (4, 6, 3)  # type: ignore[union-attr]


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
    assert len(suites.tasks("humanoid_bench")) == 14
    with pytest.raises(suites.SuiteError, match="did you mean 'h1-sit_simple'"):
        suites.make(suites.Task("h1-sit-simple", "humanoid_bench", 1, WALK.score))
