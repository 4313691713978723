"""HumanoidBench's tasks, named by their ids with or without `-v0`: `h1-walk`, `h1hand-push-v0`.

The package is optional. https://github.com/carlosferrazza/humanoid-bench describes the tasks.
"""

from __future__ import annotations

import copy
import importlib
from typing import Any, cast

import gymnasium
import numpy as np

from suites.spaces import Env, standardise
from suites.task import SuiteError, Task, unknown

_LOCOMOTION = (
    "walk", "stand", "run", "reach", "hurdle", "crawl", "maze", "sit_simple", "sit_hard", "balance_simple",
    "balance_hard", "stair", "slide", "pole",
)  # fmt: skip
_HANDS = (
    "push", "cabinet", "door", "truck", "cube", "bookshelf_simple", "bookshelf_hard", "basketball", "window", "spoon",
    "kitchen", "package", "powerlift", "room", "insert_normal", "insert_small",
)  # fmt: skip
# The benchmark registers every task for every robot. It has models for these only.
_TASKS = {
    "h1": (*_LOCOMOTION, "push", "door", "truck", "basketball", "package", "highbar_simple"),
    "h1hand": (*_LOCOMOTION, *_HANDS),
    "h1touch": (*_LOCOMOTION, *_HANDS),
    "g1": (*_LOCOMOTION, *(task for task in _HANDS if task != "truck")),  # which uses a body that the G1 lacks
    "h1simplehand": ("stand",),
    "h1strong": ("highbar_hard",),
}

# Its pins would install very old versions of gymnasium, mujoco and torch: hence --no-deps and its imports by name. Its
# setup.py does not package the models and half of the modules: hence -e.
INSTALL = (
    'pip install --no-deps -e "git+https://github.com/carlosferrazza/humanoid-bench#egg=humanoid_bench" '
    "&& pip install jax imageio"
)


def tasks() -> list[str]:
    """The names of its tasks without `-v0`. This does not need the package."""
    return [f"{robot}-{task}" for robot, names in _TASKS.items() for task in names]


def check(name: str) -> None:
    """Raise SuiteError, with the nearest names, if there is no such task."""
    if _short(name) not in tasks():
        raise unknown("humanoid_bench task", name, tasks())


def require() -> None:
    """Raise SuiteError, with the installation command, if the package is not installed."""
    try:
        importlib.import_module("humanoid_bench")
        _remove_missing_fields()
    except ImportError as error:
        raise SuiteError(f"h1 tasks need HumanoidBench ({_line(error)}); install it with: {INSTALL}") from error


def packages() -> tuple[str, ...]:
    """The benchmark."""
    return ("humanoid_bench",)


def success(name: str) -> float:
    """The `success_bar` of a task's class, which every task has. Raises SuiteError if the package is not installed.

    Some tasks with hands also report a success in `info`, but no locomotion task does.
    """
    check(name)
    require()
    return float(importlib.import_module("humanoid_bench.env").TASKS[_short(name).partition("-")[2]].success_bar)


def make(task: Task, render: bool) -> Env:
    """A new environment of the task. Raises SuiteError if the package is not installed."""
    check(task.name)
    require()
    # With its default mode every environment would need OpenGL and open a context.
    mode = "rgb_array" if render else None
    try:
        env = gymnasium.make(f"{_short(task.name)}-v0", render_mode=mode, disable_env_checker=True)
    except ValueError as error:  # MuJoCo raises it for a model that it does not accept
        mujoco = importlib.import_module("mujoco")
        reason = f"its model is written for MuJoCo 3.1.6, and {mujoco.__version__} rejects it: {_line(error)}"
        raise SuiteError(f"humanoid_bench task {task.name!r} cannot be made: {reason}") from error
    return standardise(OwnGlobalRandom(FreshTask(env)), task)


def _short(name: str) -> str:
    return name.removesuffix("-v0")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _remove_missing_fields() -> None:
    """Remove the fields that the installed MuJoCo no longer has from the benchmark's list of MuJoCo's fields.

    The list was generated for MuJoCo 3.1.6, and an environment reads every field in it.
    """
    mujoco = importlib.import_module("mujoco")
    sizes = importlib.import_module("humanoid_bench.dmc_deps.dmc_sizes").array_sizes
    for struct, type_ in (("mjmodel", mujoco.MjModel), ("mjdata", mujoco.MjData)):
        for name in [name for name in sizes[struct] if not hasattr(type_, name)]:
            del sizes[struct][name]


class FreshTask(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Restores the attributes of the benchmark's task object at the start of every episode.

    Some tasks keep counts over all episodes: spoon the steps that move its target, truck the unloaded packages. With
    them, a seed would not determine the episode.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._own: dict[str, Any] = vars(cast(Any, env.unwrapped).task)
        shared = ("_env", "robot", "unwrapped")
        self._as_made = copy.deepcopy({name: value for name, value in self._own.items() if name not in shared})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        self._own.update(copy.deepcopy(self._as_made))
        return self.env.reset(seed=seed, options=options)


class OwnGlobalRandom(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Gives the environment its own copy of NumPy's global random state during resets.

    Tasks such as reach, sit_hard and push draw their goals from `np.random` in a reset. Without this copy a seed would
    not determine the episode, and evaluations would change the random stream of training.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._state = np.random.RandomState().get_state()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode: the one of `seed` (0 <= seed < 2**32), or the next of this environment's stream."""
        if seed is None:
            return self._reset(self._state, None, options)
        state = np.random.RandomState(seed).get_state()
        # Twice, because some state survives a reset: the destination of the package is observed one episode late, and
        # the high bar removes its noise after the first reset.
        self._reset(state, seed, options)
        return self._reset(state, seed, options)

    def _reset(self, state: Any, seed: int | None, options: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        outside = np.random.get_state()
        np.random.set_state(state)
        try:
            return self.env.reset(seed=seed, options=options)
        finally:
            self._state = np.random.get_state()
            np.random.set_state(outside)
