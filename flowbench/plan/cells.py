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
    label: str  # its name in reports: the algorithm, then what differs from the suite's defaults
    source: str | None = field(init=False)  # SHA-256 of the file, when planned, of an algorithm given by a file
    code: str = field(init=False)  # digest of the code that its behaviour depends on, when planned; not in the id

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", self.entry.digest())
        object.__setattr__(self, "code", self.entry.code())

    @cached_property
    def config_id(self) -> str:
        """Eight hexadecimal digits that identify the configuration, without task and seed.

        Versions, device and threads are not included; reports name the runs that differ in them.
        """
        identity = {
            "algo": self.entry.name,
            "source": self.source,
            "config": dataclasses.asdict(self.config),
            "protocol": dataclasses.asdict(self.protocol),
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]

    @cached_property
    def folder(self) -> str:
        """The folder name of its results: what differs from the defaults, then the id."""
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
        """Its folder, relative to the results folder."""
        name = self.variant.entry.name
        return Path(self.suite.name) / task_folder(self.task.name) / name / self.variant.folder / f"seed-{self.seed}"

    def __str__(self) -> str:
        return f"{self.variant.label} {self.task.name} seed {self.seed}"


_UNSAFE = re.compile(r"[^A-Za-z0-9_.=,+-]")


def task_folder(name: str) -> str:
    """A folder name for a task, unique to it: the id of a gymnasium task may contain "/" and ":"."""
    safe = _UNSAFE.sub("_", name)
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
