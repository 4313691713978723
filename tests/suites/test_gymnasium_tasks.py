"""gymnasium as a source: scaling, flattening, and what it refuses."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import suites


def task(name: str, action_repeat: int = 1) -> suites.Task:
    return suites.Task(name, "gymnasium", action_repeat, suites.Score(-2000, 0))


class Awkward(gymnasium.Env[Any, Any]):
    """Whatever spaces it is given; rewards and flags as NumPy scalars, ends after three steps."""

    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation, action
        self.actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.actions = []
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.actions.append(action)
        return self.observation_space.sample(), np.float64(2.0), np.bool_(len(self.actions) == 3), np.bool_(False), {}


VECTOR = spaces.Box(-1.0, 1.0, (2,), np.float32)


@pytest.fixture
def register() -> Iterator[Any]:
    def add(observation: spaces.Space[Any], action: spaces.Space[Any]) -> suites.Task:
        gymnasium.register(
            "Awkward-v0", lambda: Awkward(observation, action), max_episode_steps=2, disable_env_checker=True
        )
        return task("Awkward-v0")

    yield add
    gymnasium.registry.pop("Awkward-v0", None)


def test_pendulum_is_rescaled_clipped_and_repeatable() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = suites.make(task("Pendulum-v1"))
    assert env.action_space == spaces.Box(-1.0, 1.0, (1,), np.float32)
    first, _ = env.reset(seed=3)
    assert first.dtype == np.float32
    assert first in env.observation_space
    for action, torque in ((1.0, 2.0), (-1.0, -2.0), (0.5, 1.0), (40.0, 2.0)):
        obs, reward, _, _, _ = env.step(np.array([action], np.float32))
        assert obs.dtype == np.float32
        assert type(reward) is float
        assert env.unwrapped.last_u == pytest.approx(torque)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(env.reset(seed=3)[0], first)
    assert not np.array_equal(env.reset(seed=4)[0], first)


def test_pendulum_is_cut_by_its_time_limit() -> None:
    env = suites.make(task("Pendulum-v1", action_repeat=3))
    env.reset(seed=0)
    ends = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(67)]  # 200 simulator steps: 66 threes and a two
    assert ends == [(False, False)] * 66 + [(False, True)]


def test_dictionaries_and_matrices_are_flattened(register: Any) -> None:
    observation = spaces.Dict(
        {"a": spaces.Box(-1.0, 1.0, (2, 3), np.float64), "b": spaces.Box(-np.inf, np.inf, (1,), np.float64)}
    )
    action = spaces.Box(np.array([[-4.0, 0.0]]), np.array([[4.0, 1.0]]), dtype=np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = suites.make(register(observation, action))
        obs, _ = env.reset(seed=0)
    assert env.observation_space.shape == obs.shape == (7,)
    assert obs.dtype == np.float32
    assert env.action_space == spaces.Box(-1.0, 1.0, (2,), np.float32)
    _, reward, terminated, truncated, _ = env.step(np.array([1.0, -1.0], np.float32))
    assert type(reward) is float
    assert terminated is False
    assert truncated is False
    (action,) = env.unwrapped.actions  # type: ignore[attr-defined]
    np.testing.assert_allclose(action, [[4.0, 0.0]], atol=1e-12)
    assert action.dtype == np.float64
    assert env.step(np.zeros(2, np.float32))[2:4] == (False, True)


def test_bounds_beyond_float32_become_infinite_without_a_warning(register: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = suites.make(register(spaces.Box(-1e308, 1e308, (2,), np.float64), VECTOR))
    assert env.observation_space == spaces.Box(-np.inf, np.inf, (2,), np.float32)


WRONG = {
    "reward": ("1.5", "the reward is of type str, not a real number"),
    "terminated": (None, "terminated is None, not true or false"),
    "truncated": ("no", "truncated is 'no', not true or false"),
    "obs": (np.ones(2, complex), "the observation is of type complex128, not of real numbers"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("nested", [False, True])
def test_values_of_wrong_types_are_not_converted(register: Any, monkeypatch, name: str, nested: bool) -> None:
    value, words = WRONG[name]

    def step(self: Awkward, action: Any) -> tuple[Any, ...]:
        found = {"obs": self.observation_space.sample(), "reward": 1.0, "terminated": False, "truncated": False}
        found[name] = {"a": value, "b": 0} if name == "obs" and nested else value
        return *found.values(), {}

    observation = spaces.Dict({"a": VECTOR, "b": spaces.Discrete(2)}) if nested else VECTOR
    env = suites.make(register(observation, VECTOR))
    env.reset(seed=0)
    monkeypatch.setattr(Awkward, "step", step)
    with pytest.raises(TypeError, match=words):
        env.step(np.zeros(2, np.float32))


@pytest.mark.parametrize(
    ("observation", "action", "words"),
    [
        (VECTOR, spaces.Discrete(2), "only continuous"),
        (VECTOR, spaces.Box(0, 4, (2,), np.int64), "only continuous"),
        (VECTOR, spaces.Box(-np.inf, np.inf, (2,), np.float32), "must be finite"),
        (VECTOR, spaces.Box(np.array([0.0, 1.0]), np.array([1.0, 1.0]), dtype=np.float64), "low below high"),
        (spaces.Graph(VECTOR, None), VECTOR, "cannot be flattened"),
        (spaces.Sequence(VECTOR), VECTOR, "cannot be flattened"),
    ],
)
def test_spaces_that_do_not_fit(
    observation: spaces.Space[Any], action: spaces.Space[Any], words: str, register: Any
) -> None:
    with pytest.raises(suites.SuiteError, match=words) as caught:
        suites.make(register(observation, action))
    assert "Awkward-v0" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CartPole-v1", "only continuous"),
        ("Pendulm-v1", "did you mean 'Pendulum-v1'"),
        ("Pendulum-v0", "did you mean 'Pendulum-v1'"),
        ("no_such_module:Mine-v0", "cannot import no_such_module"),
        ("gymnasium:Nothing-v0", "unknown gymnasium task 'gymnasium:Nothing-v0'"),
    ],
)
def test_ids_that_do_not_fit(name: str, words: str) -> None:
    with pytest.raises(suites.SuiteError, match=words) as caught:
        suites.make(task(name))
    assert "\n" not in str(caught.value)


def test_an_id_with_its_module() -> None:
    assert suites.make(task("gymnasium:Pendulum-v1")).observation_space.shape == (3,)


def test_an_environment_whose_package_is_missing() -> None:
    def absent() -> Any:
        raise gymnasium.error.DependencyNotInstalled("it needs\nsomething")

    gymnasium.register("Absent-v0", absent)
    try:
        with pytest.raises(suites.SuiteError, match="'Absent-v0' cannot be made: it needs something"):
            suites.make(task("Absent-v0"))
    finally:
        gymnasium.registry.pop("Absent-v0")
