"""What a suite is made of: tasks, score bounds, an evaluation plan. Plain data, no simulator."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Evaluation", "Score", "Suite", "SuiteError", "Task", "unknown"]

_LISTED_AT_MOST = 20  # longer lists of choices would bury the nearest names
_SHOWN_OF_MANY = 3


class SuiteError(ValueError):
    """A mistake in a suite, a task's name or an installation that the user can mend; always one line."""


def unknown(kind: str, value: object, choices: Iterable[str]) -> SuiteError:
    """The error for a name that is not among `choices`: names it, the nearest, and the choices, or some of many."""
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
    """The returns that count as 0 and as 1; raises SuiteError unless both are finite and low < high."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise SuiteError(f"the bounds of a score must be finite, got low {self.low} and high {self.high}")
        if not self.low < self.high:
            raise SuiteError(f"low must be below high, got low {self.low} and high {self.high}")

    def normalise(self, returns: Any) -> Any:
        """Returns of any shape (a float, an array, a Series) -> scores of the same shape, not clipped."""
        return (returns - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Task:
    """One task: its name within `source`, simulator steps an action is held for, and its score bounds."""

    name: str
    source: str
    action_repeat: int
    score: Score


@dataclass(frozen=True)
class Evaluation:
    """Evaluate `every` so many environment steps (after action repeat), over `episodes` episodes."""

    every: int
    episodes: int


@dataclass(frozen=True)
class Suite:
    """Tasks that are run and reported together, with the budget all of them share.

    `steps` is the training budget of a task, in environment steps after action repeat.
    `overrides` maps an algorithm's name to hyperparameters by name; whoever knows the algorithms checks them.
    `comparable` is False where scores must not be set beside published ones; `note` is for reports to print.
    """

    name: str
    title: str
    tasks: tuple[Task, ...]
    steps: int
    evaluation: Evaluation
    # Not hashed, because a mapping cannot be; equality still sees it.
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    comparable: bool = True
    note: str = ""

    def task(self, name: str) -> Task:
        """The task of that name; raises SuiteError with the nearest names where there is none."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise unknown(f"task of suite {self.name}", name, (task.name for task in self.tasks))
