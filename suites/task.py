"""The data of a suite: tasks, score bounds, an evaluation plan. It needs no simulator."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Evaluation", "Score", "Suite", "SuiteError", "Task", "unknown"]

_LISTED_AT_MOST = 20  # choices; longer lists would hide the nearest names
_SHOWN_OF_MANY = 3


class SuiteError(ValueError):
    """A mistake in a suite, a task's name or an installation that the user can fix, described in one line."""


def unknown(kind: str, value: object, choices: Iterable[str]) -> SuiteError:
    """The error for a name that is not among `choices`, with the nearest names and all or some of the choices."""
    choices = list(choices)
    message = f"unknown {kind} {value!r}"
    if nearest := difflib.get_close_matches(str(value), choices):
        message += f", did you mean {' or '.join(map(repr, nearest))}?"
    if len(choices) <= _LISTED_AT_MOST:
        message += f" (choices: {', '.join(choices)})"
    else:
        message += f" ({len(choices)} choices, such as {', '.join(choices[:_SHOWN_OF_MANY])})"
    return SuiteError(message)


@dataclass(frozen=True)
class Score:
    """The returns that count as 0 and as 1. Raises SuiteError unless both are finite and low < high."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise SuiteError(f"the bounds of a score must be finite, got low {self.low} and high {self.high}")
        if not self.low < self.high:
            raise SuiteError(f"low must be below high, got low {self.low} and high {self.high}")

    def normalise(self, returns: Any) -> Any:
        """Scores, not clipped, for returns of any shape (a float, an array, a Series)."""
        return (returns - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Task:
    """One task: its name within `source`, simulator steps per action, and its score bounds."""

    name: str
    source: str
    action_repeat: int
    score: Score
    # Keyword arguments of the environment; sources other than gymnasium have none. A mapping cannot be hashed.
    env_args: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Evaluation:
    """Evaluate after `every` environment steps (counted after action repeat), for `episodes` episodes."""

    every: int
    episodes: int


@dataclass(frozen=True)
class Suite:
    """Tasks that are run and reported together, with the same budget.

    `steps` is the number of training steps of a task, in environment steps after action repeat.
    `overrides` maps an algorithm's name to hyperparameters by name. They are not checked here.
    `comparable` is False if scores must not be compared with published ones. Reports print `note`.
    """

    name: str
    title: str
    tasks: tuple[Task, ...]
    steps: int
    evaluation: Evaluation
    # A mapping cannot be hashed. It is still compared.
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    comparable: bool = True
    note: str = ""

    def task(self, name: str) -> Task:
        """The task of that name. Raises SuiteError, with the nearest names, if there is none."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise unknown(f"task of suite {self.name}", name, (task.name for task in self.tasks))
