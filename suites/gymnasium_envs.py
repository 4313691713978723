"""Any installed gymnasium environment with continuous actions, by its id: `Pendulum-v1`, `my_package:Mine-v0`."""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium

from suites.spaces import Env, standardise
from suites.task import SuiteError, Task, unknown


def tasks() -> list[str]:
    """The ids that gymnasium knows now. Whether one has continuous actions is checked when it is made."""
    return sorted(gymnasium.registry)


def check(name: str) -> None:
    """Raise SuiteError, with the nearest ids, if there is no such id. Imports the module before a colon."""
    module, _, id_ = name.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except Exception as error:  # third-party modules may raise anything
            reason = f"{type(error).__name__}: {_line(error)}"
            raise SuiteError(f"gymnasium task {name!r}: cannot import {module}: {reason}") from error
    if id_ not in gymnasium.registry:
        raise unknown("gymnasium task", name, tasks())


def require() -> None:
    """Do nothing: flowbench depends on gymnasium."""


def packages() -> tuple[str, ...]:
    """None: gymnasium does not say which packages an id needs."""
    return ()


def success(name: str) -> None:
    """None: there is no rule."""


def make(task: Task, render: bool) -> Env:
    """A new environment of the task. Raises SuiteError if its spaces do not fit or a package is missing."""
    check(task.name)
    try:
        # Not every environment accepts render_mode.
        drawing: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
        env = gymnasium.make(task.name, disable_env_checker=True, **drawing)
    except (gymnasium.error.Error, ImportError) as error:
        raise SuiteError(f"gymnasium task {task.name!r} cannot be made: {_line(error)}") from error
    if env.spec is None or env.spec.max_episode_steps is None:
        # Without it an episode may never end, and evaluations need whole episodes.
        raise SuiteError(f"gymnasium task {task.name!r} has no time limit; register it with max_episode_steps")
    return standardise(env, task)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
