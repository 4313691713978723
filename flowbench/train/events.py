"""What happens while a group trains, as `Trainer.run` tells it."""

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
    """The run goes on: a step count and the speed since the last tick."""

    step: int
    steps_per_second: float


@dataclass(frozen=True)
class Lost:
    """A seed's training came to nothing, because of `error`; the seeds beside it go on."""

    seed: int
    error: Exception


@dataclass(frozen=True)
class Save:
    """Now is the time to keep `Trainer.state`: everything that was yielded so far, and nothing else, led to it."""

    step: int
