"""One training run: a task, an algorithm variant with its resolved config, and a seed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import suites
from algos import Entry


@dataclass(frozen=True)
class Protocol:
    """How long a run trains and how it is evaluated, in environment steps after action repeat."""

    steps: int
    every: int
    episodes: int


@dataclass(frozen=True)
class Variant:
    """An algorithm with every hyperparameter resolved."""

    entry: Entry
    config: Any  # the algorithm's frozen dataclass
    protocol: Protocol
    label: str  # what reports call it: the name, with what differs from the suite's defaults
    source: str | None = field(init=False)  # SHA-256 of the code of an algorithm given by file, as it was planned

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", self.entry.digest())

    @cached_property
    def config_id(self) -> str:
        """Eight hex digits of what was asked for, the task and the seed aside.

        Versions, device and threads are not in it; a report names runs that differ in them.
        """
        decided = {
            "algo": self.entry.name,
            "source": self.source,
            "config": dataclasses.asdict(self.config),
            "protocol": dataclasses.asdict(self.protocol),
        }
        return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:8]

    @cached_property
    def folder(self) -> str:
        """A name for its results: what differs from the defaults, for people, and the id."""
        differs = self.label.removeprefix(self.entry.name).strip("[]") or "default"
        return f"{re.sub(_UNSAFE, '_', differs)[:80]}-{self.config_id}"


@dataclass(frozen=True)
class Cell:
    """One training run: a suite's task, an algorithm variant, a seed."""

    suite: suites.Suite
    task: suites.Task
    variant: Variant
    seed: int

    @property
    def path(self) -> Path:
        """Where its files lie, below the results folder."""
        name = self.variant.entry.name
        return Path(self.suite.name) / task_folder(self.task.name) / name / self.variant.folder / f"seed-{self.seed}"

    def __str__(self) -> str:
        return f"{self.variant.label} {self.task.name} seed {self.seed}"


_UNSAFE = re.compile(r"[^A-Za-z0-9_.=,+-]")


def task_folder(name: str) -> str:
    """A task's name as that of one folder, no two the same: a gymnasium id may hold "/" and ":"."""
    safe = _UNSAFE.sub("_", name)
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
