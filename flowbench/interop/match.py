"""Finds the task of a suite that a name in a published file refers to."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import suites

# A common abbreviation of DMControl's domain name.
ALIASES = {"cup-catch": "ball-in-cup-catch"}


def candidates(suite: str | None) -> list[suites.Suite]:
    """The named suite, or every shipped suite whose scores are comparable with published ones. Raises SuiteError."""
    if suite is not None:
        return [suites.load(suite, check_tasks=False)]
    shipped = [suites.load(name, check_tasks=False) for name in suites.names()]
    return [each for each in shipped if each.comparable]


def find(name: str, among: Sequence[suites.Suite], prefix: str = "") -> list[tuple[suites.Suite, suites.Task]]:
    """The task in every suite that has it, in any spelling; the name may lack the `prefix`."""
    found = []
    for suite in among:
        known = {_normalise(task.name): task for task in suite.tasks}
        wanted = _normalise(name)
        bare = re.sub(r"-v\d+$", "", wanted)  # tried second: in Gymnasium's names the version matters
        spellings = (wanted, bare, ALIASES.get(bare, bare), *([_normalise(prefix) + bare] if prefix else []))
        task = next((known[each] for each in spellings if each in known), None)
        if task:
            found.append((suite, task))
    return found


def nearest(name: str, among: Sequence[suites.Suite]) -> str:
    """The most similar name of a task in these suites."""
    names = {_normalise(task.name): task.name for suite in among for task in suite.tasks}
    return names[difflib.get_close_matches(_normalise(name), names, n=1, cutoff=0.0)[0]]


def _normalise(name: str) -> str:
    return name.strip().lower().replace("_", "-")
