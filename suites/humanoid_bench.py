"""HumanoidBench's tasks, named by its own ids, whose `-v0` may be left out: `h1-walk`, `h1hand-push-v0`.

The package is optional; https://github.com/carlosferrazza/humanoid-bench says what each task asks for.
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
# The benchmark registers every task for every robot; these are the ones that it has a model of.
_TASKS = {
    "h1": (*_LOCOMOTION, "push", "door", "truck", "basketball", "package", "highbar_simple"),
    "h1hand": (*_LOCOMOTION, *_HANDS),
    "h1touch": (*_LOCOMOTION, *_HANDS),
    "g1": (*_LOCOMOTION, *(task for task in _HANDS if task != "truck")),  # which names a body that the G1 lacks
    "h1simplehand": ("stand",),
    "h1strong": ("highbar_hard",),
}

# Its own pins would take gymnasium, mujoco and torch back by years, hence --no-deps and what it imports by name. Its
# setup.py packs neither its models nor half of its modules, hence -e.
INSTALL = (
    'pip install --no-deps -e "git+https://github.com/carlosferrazza/humanoid-bench#egg=humanoid_bench" '
    "&& pip install jax imageio"
)


def tasks() -> list[str]:
    """The names of its tasks without `-v0`, known without the package."""
    return [f"{robot}-{task}" for robot, names in _TASKS.items() for task in names]


def check(name: str) -> None:
    """Raises SuiteError, with the nearest names, where there is no such task."""
    if _short(name) not in tasks():
        raise unknown("humanoid_bench task", name, tasks())


def require() -> None:
    """Raises SuiteError, saying how to install it, without the package."""
    try:
        importlib.import_module("humanoid_bench")
        _mend()
    except ImportError as error:
        raise SuiteError(f"h1 tasks need HumanoidBench ({_line(error)}); install it with: {INSTALL}") from error


def packages() -> tuple[str, ...]:
    """The benchmark."""
    return ("humanoid_bench",)


def success(name: str) -> float:
    """The `success_bar` of a task's class; raises SuiteError, saying how to install it, without the package.

    Every task has one. A success of the benchmark's own in `info` some tasks with hands have, no locomotion task.
    """
    check(name)
    require()
    return float(importlib.import_module("humanoid_bench.env").TASKS[_short(name).partition("-")[2]].success_bar)


def make(task: Task, render: bool) -> Env:
    """A fresh environment of the task; raises SuiteError, saying how to install it, without the package."""
    check(task.name)
    require()
    # By default the benchmark would need OpenGL and open a context in every environment.
    mode = "rgb_array" if render else None
    try:
        env = gymnasium.make(f"{_short(task.name)}-v0", render_mode=mode, disable_env_checker=True)
    except ValueError as error:  # what MuJoCo raises for a model that it does not take
        mujoco = importlib.import_module("mujoco")
        said = f"its model is written for MuJoCo 3.1.6, and {mujoco.__version__} does not take it: {_line(error)}"
        raise SuiteError(f"humanoid_bench task {task.name!r} cannot be made: {said}") from error
    return standardise(OwnGlobalRandom(FreshTask(env)), task)


def _short(name: str) -> str:
    return name.removesuffix("-v0")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _mend() -> None:
    """Takes from the benchmark's list of MuJoCo's fields those that the installed MuJoCo no longer has.

    The list was generated for MuJoCo 3.1.6, and an environment reads every field on it.
    """
    mujoco = importlib.import_module("mujoco")
    sizes = importlib.import_module("humanoid_bench.dmc_deps.dmc_sizes").array_sizes
    for struct, type_ in (("mjmodel", mujoco.MjModel), ("mjdata", mujoco.MjData)):
        for name in [name for name in sizes[struct] if not hasattr(type_, name)]:
            del sizes[struct][name]


class FreshTask(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Begins every episode with the benchmark's task as it was made.

    Some keep counts of their own over all episodes: spoon the steps that its target moves with, truck the packages
    that are unloaded. A seed would not decide the episode.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._own: dict[str, Any] = vars(cast(Any, env.unwrapped).task)
        shared = ("_env", "robot", "unwrapped")
        self._as_made = copy.deepcopy({name: value for name, value in self._own.items() if name not in shared})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode."""
        self._own.update(copy.deepcopy(self._as_made))
        return self.env.reset(seed=seed, options=options)


class OwnGlobalRandom(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Gives the environment its own copy of NumPy's global random state while it resets.

    Tasks such as reach, sit_hard and push draw their goals from `np.random` when they are reset. Left alone, a seed
    would not decide the episode, and evaluation would move the training's random stream.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._state = np.random.RandomState().get_state()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode: the one of `seed` (0 <= seed < 2**32), else the next of this environment's stream."""
        if seed is None:
            return self._reset(self._state, None, options)
        state = np.random.RandomState(seed).get_state()
        # Twice, because of what outlives a reset: where the package must go shows in the first observation one episode
        # late, and the high bar takes its noise away after the first.
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
