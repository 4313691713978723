"""Any installed gymnasium environment with continuous actions, by its id: `Pendulum-v1`, `my_package:Mine-v0`."""

from __future__ import annotations

import importlib
import re
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
        env = gymnasium.make(task.name, disable_env_checker=True, **task.env_args, **drawing)
    except (gymnasium.error.Error, ImportError) as error:
        raise SuiteError(f"gymnasium task {task.name!r} {_why_not(error)}") from error
    except TypeError as error:
        if not task.env_args:
            raise
        arguments = ", ".join(f"{key}={value!r}" for key, value in task.env_args.items())
        reason = f"cannot be made with env_args {arguments}: {_line(error)}"
        raise SuiteError(f"gymnasium task {task.name!r} {reason}") from error
    if env.spec is None or env.spec.max_episode_steps is None:
        # Without it an episode may never end, and evaluations need whole episodes.
        raise SuiteError(f"gymnasium task {task.name!r} has no time limit; register it with max_episode_steps")
    return standardise(env, task)


def _why_not(error: Exception) -> str:
    """Why an environment cannot be made, with the command that installs what is missing, if the error says so."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"needs the package {package!r}, which is not installed; install it with: pip install {package}"
    commands = re.findall(r"pip install (\"[^\"]+\"|'[^']+'|[\w\[\]-]+)", str(error))
    if isinstance(error, gymnasium.error.DependencyNotInstalled) and commands:
        command = " && ".join(f"pip install {package}" for package in commands)
        return f"needs a package that is not installed; install it with: {command}"
    return f"cannot be made: {_line(error)}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
