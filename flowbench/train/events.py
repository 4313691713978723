"""The events that `Trainer.run` yields while a group trains."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A row of train.csv or evals.csv of one seed."""

    table: str  # "train" or "evals"
    seed: int
    values: dict[str, float]


@dataclass(frozen=True)
class Tick:
    """Progress: the steps taken so far and the speed since the last tick."""

    step: int
    steps_per_second: float


@dataclass(frozen=True)
class SeedFailed:
    """The training of one seed ended with `error`. The other seeds of the group continue."""

    seed: int
    error: Exception


@dataclass(frozen=True)
class Save:
    """A checkpoint can be written now: `Trainer.state` contains exactly what led to the events so far."""

    step: int
