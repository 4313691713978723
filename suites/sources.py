"""Where tasks come from: one adapter module a source, imported when it is first needed.

A new source is a module with the functions of `Adapter` and a line in `SOURCES`.
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
    """What a source's module offers."""

    def tasks(self) -> list[str]:
        """The names of its tasks."""

    def check(self, name: str) -> None:
        """Raises SuiteError, with the nearest names, where the source has no such task."""

    def require(self) -> None:
        """Raises SuiteError, saying how to install it, where what the source needs is missing."""

    def packages(self) -> tuple[str, ...]:
        """Distributions that decide its numbers and that flowbench does not bring."""

    def success(self, name: str) -> float | None:
        """The return from which on an episode of a task is a success; None where the source names none."""

    def make(self, task: Task, render: bool) -> Env:
        """A fresh environment as `suites.make` describes it."""


def adapter(source: str) -> Adapter:
    """The adapter of a source; raises SuiteError where it is not known."""
    if source not in SOURCES:
        raise unknown("source", source, SOURCES)
    return cast(Adapter, importlib.import_module(SOURCES[source]))
