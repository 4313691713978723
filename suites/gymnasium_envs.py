"""Any installed gymnasium environment with continuous actions, by its id: `Pendulum-v1`, `my_package:Mine-v0`."""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium

from suites.spaces import Env, standardise
from suites.task import SuiteError, Task, unknown


def tasks() -> list[str]:
    """The ids gymnasium knows now; whether one has continuous actions shows when it is made."""
    return sorted(gymnasium.registry)


def check(name: str) -> None:
    """Raises SuiteError, with the nearest ids, where there is none such; imports what stands before a colon."""
    module, _, id_ = name.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a stranger's module raises while it is imported
            reason = f"{type(error).__name__}: {_line(error)}"
            raise SuiteError(f"gymnasium task {name!r}: cannot import {module}: {reason}") from error
    if id_ not in gymnasium.registry:
        raise unknown("gymnasium task", name, tasks())


def require() -> None:
    """Nothing: gymnasium comes with flowbench."""


def packages() -> tuple[str, ...]:
    """None: no rule says which packages an id needs."""
    return ()


def success(name: str) -> None:
    """None: there is no such rule."""


def make(task: Task, render: bool) -> Env:
    """A fresh environment of the task; raises SuiteError where its spaces do not fit or a package is missing."""
    check(task.name)
    try:
        # Not every environment knows of render_mode.
        drawing: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
        env = gymnasium.make(task.name, disable_env_checker=True, **drawing)
    except (gymnasium.error.Error, ImportError) as error:
        raise SuiteError(f"gymnasium task {task.name!r} cannot be made: {_line(error)}") from error
    if env.spec is None or env.spec.max_episode_steps is None:
        # Nothing else is sure to end an episode, and an evaluation is whole episodes.
        raise SuiteError(f"gymnasium task {task.name!r} has no time limit; register it with max_episode_steps")
    return standardise(env, task)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
