"""Suites of tasks in YAML files, and adapters that turn a task into a `gymnasium.Env`.

Importing this package imports no simulator. A simulator is imported when a task is checked or made.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from suites.load import load, names, read_yaml
from suites.single import single
from suites.sources import SOURCES, adapter
from suites.task import Evaluation, Score, Suite, SuiteError, Task

if TYPE_CHECKING:
    from suites.spaces import Env

__all__ = [
    "Evaluation",
    "Score",
    "Suite",
    "SuiteError",
    "Task",
    "load",
    "make",
    "names",
    "packages",
    "read_yaml",
    "require",
    "single",
    "sources",
    "success",
    "tasks",
]


def sources() -> tuple[str, ...]:
    """The names of the sources of tasks."""
    return tuple(SOURCES)


def tasks(source: str) -> list[str]:
    """The names of a source's tasks. May import the source. Raises SuiteError if there is no such source."""
    return adapter(source).tasks()


def require(source: str) -> None:
    """Raise SuiteError, with the installation command, if a source needs something that is not installed."""
    adapter(source).require()


def packages(source: str) -> tuple[str, ...]:
    """Distributions that a source's numbers depend on and flowbench does not install. Raises SuiteError."""
    return adapter(source).packages()


def success(task: Task) -> float | None:
    """The return at which an episode is a success by the benchmark's own rule; None if it has no rule.

    Raises SuiteError if the task does not exist or something it needs is not installed.
    """
    return adapter(task.source).success(task.name)


def make(task: Task, render: bool = False) -> Env:
    """A new environment of the task, with the same interface for every source.

    Observations are float32 [obs_dim], actions float32 [act_dim] in [-1, 1] (clipped, then scaled to the task's
    bounds), rewards Python floats summed over `task.action_repeat` simulator steps. `terminated` means that the
    episode truly ended, `truncated` that a time limit cut it. `reset(seed=s)`, 0 <= s < 2**32, starts the same
    episode independently of earlier episodes. Raises SuiteError if the task does not exist or something it needs is
    not installed.

    With `render`, `env.render()` returns a picture, uint8 [height, width, 3], drawn off-screen: with EGL on Linux
    unless MUJOCO_GL is set. MuJoCo reads this variable once, at import, so no environment may have been made without
    `render` before. Without OpenGL, `make` or `env.render()` raises OpenGL's error.
    """
    if render:
        os.environ.setdefault("MUJOCO_GL", "egl" if sys.platform == "linux" else "glfw")
    return adapter(task.source).make(task, render)
