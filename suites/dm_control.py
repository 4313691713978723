"""Tasks of the DeepMind Control Suite, named `domain-task`, for example `ball_in_cup-catch`."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from suites.spaces import Env, HeldAction, actions
from suites.task import SuiteError, Task, unknown


@functools.cache
def _suite() -> Any:
    """The module `dm_control.suite`, imported with no rendering backend unless MUJOCO_GL names one.

    Without the variable dm_control tries every backend at import, and warns if there is no display. Afterwards the
    variable is restored, so that child processes and other packages see the user's value. mujoco is imported first
    because with a disabled backend it would not define `GLContext`, which `mujoco.Renderer` needs.
    """
    require()
    importlib.import_module("mujoco")
    if "MUJOCO_GL" in os.environ:
        return importlib.import_module("dm_control.suite")
    os.environ["MUJOCO_GL"] = "disable"
    try:
        return importlib.import_module("dm_control.suite")
    finally:
        del os.environ["MUJOCO_GL"]


def tasks() -> list[str]:
    """The names of all tasks that can be trained."""
    # lqr has no time limit and action bounds of 1e10: with a random policy its episodes would never end.
    return [f"{domain}-{task}" for domain, task in _suite().ALL_TASKS if domain != "lqr"]


def check(name: str) -> None:
    """Raise SuiteError, with the nearest names, if there is no such task."""
    if name not in (names := tasks()):
        raise unknown("dm_control task", name, names)


def require() -> None:
    """Raise SuiteError, with the installation command, if dm_control is not installed."""
    if importlib.util.find_spec("dm_control") is None:
        raise SuiteError("dm_control is not installed (on Python 3.13: pip install --no-deps dm_control)")


def packages() -> tuple[str, ...]:
    """None: flowbench installs dm_control."""
    return ()


def success(name: str) -> None:
    """None: there is no rule."""


def make(task: Task, render: bool) -> Env:
    """A new environment of the task. Building the physics model takes up to a second (dog).

    `render` has no effect: dm_control creates a rendering context with the first picture.
    """
    check(task.name)
    env = DMControl(_suite().load(*task.name.split("-")))
    return HeldAction(env, task.action_repeat) if task.action_repeat > 1 else env


class DMControl(gymnasium.Env[Any, Any]):
    """A dm_control environment as a `gymnasium.Env`: float32 [obs_dim], actions [act_dim] in [-1, 1]."""

    def __init__(self, env: Any) -> None:
        """Takes a `dm_control.rl.control.Environment` with bounded actions."""
        self._env = env
        spec = env.action_spec()
        # The middle and half the width of the task's bounds: exactly 0 and 1 for most tasks.
        self._middle = (spec.maximum + spec.minimum) / 2
        self._half = (spec.maximum - spec.minimum) / 2
        self._over = True
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 1 / env.control_timestep()}
        size = sum(int(np.prod(array.shape)) for array in env.observation_spec().values())
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = actions(int(np.prod(spec.shape)))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode: the one of `seed` (0 <= seed < 2**32), or the next of the task's random stream."""
        super().reset(seed=seed)
        if seed is not None:
            self._env.task.random.seed(seed)
        timestep = self._env.reset()
        self._over = False
        return self._flat(timestep.observation), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One control step. Raises gymnasium's ResetNeeded after the end of an episode."""
        if self._over:  # dm_control would start an episode and return no reward
            raise gymnasium.error.ResetNeeded("step() needs an episode: call reset() first")
        timestep = self._env.step(self._middle + self._half * np.clip(action, -1.0, 1.0))
        self._over = timestep.last()
        terminated = bool(self._over and timestep.discount == 0)
        return self._flat(timestep.observation), float(timestep.reward), terminated, self._over and not terminated, {}

    def render(self) -> NDArray[np.uint8]:
        """The picture of the task's first camera: uint8 [480, 640, 3]."""
        picture: NDArray[np.uint8] = self._env.physics.render(480, 640, camera_id=0)
        return picture

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()

    @staticmethod
    def _flat(observation: dict[str, Any]) -> NDArray[np.float32]:
        return np.concatenate([np.ravel(part) for part in observation.values()], dtype=np.float32)
