"""The sources of tasks: one adapter module for each, imported when it is first needed.

To add a source, add a module with the functions of `Adapter` and a line to `SOURCES`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol, cast

from suites.task import Task, unknown

if TYPE_CHECKING:
    from suites.spaces import Env

SOURCES = {
    "dm_control": "suites.dm_control",
    "humanoid_bench": "suites.humanoid_bench",
    "gymnasium": "suites.gymnasium_envs",
}


class Adapter(Protocol):
    """The functions of a source's module."""

    def tasks(self) -> list[str]:
        """The names of its tasks."""

    def check(self, name: str) -> None:
        """Raise SuiteError, with the nearest names, if the source has no such task."""

    def require(self) -> None:
        """Raise SuiteError, with the installation command, if the source needs something that is not installed."""

    def packages(self) -> tuple[str, ...]:
        """Distributions that its numbers depend on and flowbench does not install."""

    def success(self, name: str) -> float | None:
        """The return at which an episode of a task is a success; None if the source defines none."""

    def make(self, task: Task, render: bool) -> Env:
        """A new environment as described in `suites.make`."""


def adapter(source: str) -> Adapter:
    """The adapter of a source. Raises SuiteError if there is no such source."""
    if source not in SOURCES:
        raise unknown("source", source, SOURCES)
    return cast(Adapter, importlib.import_module(SOURCES[source]))
