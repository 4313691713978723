"""Where tasks come from: suites in YAML files, and adapters that turn a task into a `gymnasium.Env`.

Importing this package imports no simulator; those come in when a task is checked or made.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from suites.load import load, names, read_yaml
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
    "sources",
    "success",
    "tasks",
]


def sources() -> tuple[str, ...]:
    """The names of the sources that a task can come from."""
    return tuple(SOURCES)


def tasks(source: str) -> list[str]:
    """The names of a source's tasks; imports it where that is needed. Raises SuiteError if it is not known."""
    return adapter(source).tasks()


def require(source: str) -> None:
    """Raises SuiteError, saying how to install it, where what a source needs is missing."""
    adapter(source).require()


def packages(source: str) -> tuple[str, ...]:
    """Distributions that decide a source's numbers and that flowbench does not bring. Raises SuiteError."""
    return adapter(source).packages()


def success(task: Task) -> float | None:
    """The return from which on an episode is a success, by the benchmark's own rule; None where it has none.

    Raises SuiteError where the task, or what it needs installed, is missing.
    """
    return adapter(task.source).success(task.name)


def make(task: Task, render: bool = False) -> Env:
    """A fresh environment of the task, the same from outside whatever its source.

    Observations are float32 [obs_dim], actions float32 [act_dim] in [-1, 1] (clipped, then scaled to the task's
    bounds), rewards Python floats summed over `task.action_repeat` simulator steps. `terminated` says that the
    episode truly ended, `truncated` that a time limit cut it. `reset(seed=s)`, 0 <= s < 2**32, starts the same
    episode whatever ran before. Raises SuiteError where the task, or what it needs installed, is missing.

    With `render`, `env.render()` gives what it looks like now, uint8 [height, width, 3], drawn off-screen: by EGL on
    Linux unless MUJOCO_GL says otherwise. MuJoCo asks once, as it is imported: nothing may have been made before
    without `render`. Where there is no OpenGL to draw with, whatever it raises comes from `make` or `env.render()`.
    """
    if render:
        os.environ.setdefault("MUJOCO_GL", "egl" if sys.platform == "linux" else "glfw")
    return adapter(task.source).make(task, render)
