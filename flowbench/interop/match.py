"""Which task of which suite a name in somebody else's file means."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import suites

# DMControl's long domain name is commonly cut short.
ALIASES = {"cup-catch": "ball-in-cup-catch"}


def candidates(suite: str | None) -> list[suites.Suite]:
    """The named suite, or every shipped one whose scores stand beside published ones. Raises SuiteError."""
    if suite is not None:
        return [suites.load(suite, check_tasks=False)]
    shipped = [suites.load(name, check_tasks=False) for name in suites.names()]
    return [each for each in shipped if each.comparable]


def find(name: str, among: Sequence[suites.Suite], prefix: str = "") -> list[tuple[suites.Suite, suites.Task]]:
    """The task in every suite that has it, however the name is spelled; with `prefix` also where it lacks that."""
    found = []
    for suite in among:
        known = {_plain(task.name): task for task in suite.tasks}
        wanted = _plain(name)
        bare = re.sub(r"-v\d+$", "", wanted)  # tried last: of gymnasium's tasks the version is part of the name
        spellings = (wanted, bare, ALIASES.get(bare, bare), *([_plain(prefix) + bare] if prefix else []))
        task = next((known[each] for each in spellings if each in known), None)
        if task:
            found.append((suite, task))
    return found


def nearest(name: str, among: Sequence[suites.Suite]) -> str:
    """The most similar name of a task in these suites."""
    names = {_plain(task.name): task.name for suite in among for task in suite.tasks}
    return names[difflib.get_close_matches(_plain(name), names, n=1, cutoff=0.0)[0]]


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")
