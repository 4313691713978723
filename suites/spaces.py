"""The common interface of all environments: flat float32 observations, actions in [-1, 1]."""

from __future__ import annotations

import contextlib
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces, wrappers
from numpy.typing import NDArray

from suites.task import SuiteError, Task

Env: TypeAlias = "gymnasium.Env[Any, Any]"  # gymnasium's types cannot express the dtype of a Box


def actions(size: int) -> spaces.Space[Any]:
    """The action space [-1, 1]^size, float32."""
    return spaces.Box(-1.0, 1.0, (size,), np.float32)


def standardise(env: gymnasium.Env[Any, Any], task: Task) -> Env:
    """Convert a gymnasium environment with continuous actions to the interface of `suites.make`.

    Raises SuiteError if its observations cannot be flattened or its actions are not continuous and bounded.
    """
    env = Typed(env)
    if not isinstance(env.observation_space, spaces.Box) or len(env.observation_space.shape) != 1:
        with contextlib.suppress(NotImplementedError):  # rejected below if it is still not a Box
            env = wrappers.FlattenObservation(env)
    seen = env.observation_space
    if not isinstance(seen, spaces.Box):
        raise SuiteError(f"task {task.name!r} has observations that cannot be flattened: {seen}")
    if seen.dtype != np.float32:
        # gymnasium's DtypeObservation does the same, but warns about the precision of the bounds each time.
        with np.errstate(over="ignore"):
            box = spaces.Box(seen.low.astype(np.float32), seen.high.astype(np.float32), dtype=np.float32)
        env = wrappers.TransformObservation(env, lambda obs: np.asarray(obs, np.float32), box)

    acted = env.action_space
    if not isinstance(acted, spaces.Box) or not np.issubdtype(acted.dtype, np.floating):
        raise SuiteError(f"task {task.name!r} has actions {acted}; only continuous (Box) actions can be trained here")
    if not (np.isfinite(acted.low).all() and np.isfinite(acted.high).all() and (acted.low < acted.high).all()):
        raise SuiteError(f"task {task.name!r} has actions {acted}; every bound must be finite, with low below high")
    if (acted.low != -1).any() or (acted.high != 1).any():
        ones = np.ones(acted.shape, acted.dtype)  # in the dtype of the space; gymnasium warns about others
        env = wrappers.RescaleAction(env, -ones, ones)

    # gymnasium's ClipAction would change the action space to (-inf, inf), and agents need the bounds.
    def inner(action: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        return np.clip(action, -1.0, 1.0).astype(acted.dtype).reshape(acted.shape)

    env = wrappers.TransformAction(env, inner, actions(int(np.prod(acted.shape))))
    return HeldAction(env, task.action_repeat)


class Typed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Raises TypeError where a conversion to real numbers would change a value without a warning."""

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(**options)
        _check_observation(self.env.observation_space, obs)
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        _check_observation(self.env.observation_space, obs)
        if not _is_real(reward):
            raise TypeError(f"the reward is of type {type(reward).__name__}, not a real number")
        for name, value in (("terminated", terminated), ("truncated", truncated)):
            if not _is_real(value) or np.size(value) != 1 or np.asarray(value).item() not in (0, 1):
                raise TypeError(f"{name} is {value!r}, not true or false")
        return obs, reward, terminated, truncated, info


def _check_observation(space: spaces.Space[Any], obs: Any) -> None:
    """Check the parts of an observation that consist of numbers."""
    if isinstance(space, spaces.Dict):
        for key, part in space.items():
            _check_observation(part, obs[key])
    elif isinstance(space, spaces.Tuple):
        for part, value in zip(space, obs, strict=True):
            _check_observation(part, value)
    elif isinstance(space, spaces.Box) and not _is_real(obs):
        raise TypeError(f"the observation is of type {np.asarray(obs).dtype}, not of real numbers")


def _is_real(value: Any) -> bool:
    """Whether a value consists of booleans, integers or floats."""
    return np.asarray(value).dtype.kind in "biuf"


class HeldAction(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Repeats each action for `steps` steps or until the episode ends. The reward is the sum.

    Rewards are Python floats and flags Python bools; many environments return NumPy types.
    """

    def __init__(self, env: Env, steps: int) -> None:
        super().__init__(env)
        self._steps = steps

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total = 0.0
        for _ in range(self._steps):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return obs, total, bool(terminated), bool(truncated), info
