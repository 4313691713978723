"""HumanoidBench's fourteen locomotion tasks for the Unitree H1 without hands, named `h1-walk`.

The package is optional; https://github.com/carlosferrazza/humanoid-bench says what each task asks for.
"""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium
import numpy as np

from suites.spaces import Env, standardise
from suites.task import SuiteError, Task, unknown

_TASKS = (
    "walk", "stand", "run", "reach", "hurdle", "crawl", "maze", "sit_simple", "sit_hard", "balance_simple",
    "balance_hard", "stair", "slide", "pole",
)  # fmt: skip

# Its own pins would take gymnasium, mujoco and torch back by years, hence --no-deps and what it imports by name.
_INSTALL = (
    'pip install --no-deps "humanoid_bench @ git+https://github.com/carlosferrazza/humanoid-bench" '
    "&& pip install jax imageio"
)


def tasks() -> list[str]:
    """The names of the fourteen tasks, known without the package."""
    return [f"h1-{task}" for task in _TASKS]


def check(name: str) -> None:
    """Raises SuiteError, with the nearest names, where there is no such task."""
    if name not in tasks():
        raise unknown("humanoid_bench task", name, tasks())


def require() -> None:
    """Raises SuiteError, saying how to install it, without the package."""
    try:
        importlib.import_module("humanoid_bench")
        _mend()
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise SuiteError(f"h1 tasks need HumanoidBench ({reason}); install it with: {_INSTALL}") from error


def make(task: Task, render: bool) -> Env:
    """A fresh environment of the task; raises SuiteError, saying how to install it, without the package."""
    check(task.name)
    require()
    # By default the benchmark would need OpenGL and open a context in every environment.
    env = gymnasium.make(f"{task.name}-v0", render_mode="rgb_array" if render else None, disable_env_checker=True)
    return standardise(OwnGlobalRandom(env), task)


def _mend() -> None:
    """Takes from the benchmark's list of MuJoCo's fields those that the installed MuJoCo no longer has.

    The list was generated for MuJoCo 3.1.6, and an environment reads every field on it.
    """
    mujoco = importlib.import_module("mujoco")
    sizes = importlib.import_module("humanoid_bench.dmc_deps.dmc_sizes").array_sizes
    for struct, type_ in (("mjmodel", mujoco.MjModel), ("mjdata", mujoco.MjData)):
        for name in [name for name in sizes[struct] if not hasattr(type_, name)]:
            del sizes[struct][name]


class OwnGlobalRandom(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Gives the environment its own copy of NumPy's global random state while it resets.

    h1-reach and h1-sit_hard draw their goals from `np.random` when they are reset. Left alone, a seed would not
    decide the episode, and evaluation would move the training's random stream.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._state = np.random.RandomState().get_state()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode: the one of `seed` (0 <= seed < 2**32), else the next of this environment's stream."""
        if seed is not None:
            self._state = np.random.RandomState(seed).get_state()
        outside = np.random.get_state()
        np.random.set_state(self._state)
        try:
            return self.env.reset(seed=seed, options=options)
        finally:
            self._state = np.random.get_state()
            np.random.set_state(outside)
