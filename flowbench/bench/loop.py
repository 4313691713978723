"""Times a whole training run and its parts, with the trainer and its clock."""

from __future__ import annotations

import dataclasses
import sys
import time
from contextlib import closing
from functools import partial
from typing import Any

import suites
from flowbench.bench.setting import Setting
from flowbench.learners import placement
from flowbench.learners.placement import Placement
from flowbench.plan.cells import Variant
from flowbench.train.build import build_agent, build_trainer
from flowbench.train.trainer import Trainer
from suites.task import unknown

STEPS = 3000


def find(name: str) -> tuple[suites.Suite, suites.Task]:
    """The task of that name in a suite, or otherwise in a source, then without action repeat. Raises SuiteError."""
    shipped = [suites.load(each, check_tasks=False) for each in suites.names()]
    # Comparable suites first: the quick suite repeats actions more often than most.
    for suite in sorted(shipped, key=lambda suite: not suite.comparable):
        for task in suite.tasks:
            if task.name == name:
                return suite, task
    known = []
    for source in suites.sources():
        try:
            names = suites.tasks(source)
        except suites.SuiteError:  # its packages are not installed
            continue
        if name in names:
            task = suites.Task(name, source, 1, suites.Score(0.0, 1.0))
            return suites.Suite("bench", "Bench", (task,), STEPS, suites.Evaluation(STEPS, 1)), task
        known += names
    raise unknown("task", name, known)


def measure(task: suites.Task, variant: Variant, seeds: int, setting: Setting) -> dict[str, Any]:
    """Train `seeds` seeds for the variant's steps, with one evaluation at the end. The row holds the time by part."""
    began = time.perf_counter()
    trainer, places = _trainer(task, variant, seeds, setting)
    with closing(trainer):
        built = trainer.clock.split()
        for _ in trainer.run():
            pass
        split = trainer.clock.split()
    steps = variant.protocol.steps
    wall = {part: split[part] - built[part] for part in split}
    return {
        "algo": variant.label,
        "task": task.name,
        "stack": seeds,
        "device": setting.device.type,
        "steps": steps,
        "seconds": wall["total"],
        "steps_per_second": steps / wall["total"],
        **by_part(wall, steps),
        "build_seconds": trainer.clock.started + built["total"] - began,
        "kind": trainer.kind,
        "environment_processes": places.environments,
        "evaluation_processes": places.evaluation,
        "precision": setting.precision,
        "threads": setting.threads,
    }


def by_part(wall: dict[str, float], steps: int) -> dict[str, Any]:
    """The clock's seconds for each part of the run, also per step and as shares of the total."""
    parts = {part: seconds for part, seconds in wall.items() if part != "total"}
    shares = {part: seconds / wall["total"] for part, seconds in parts.items()}
    return {
        "wall": parts,
        "ms_per_step": {part: 1e3 * seconds / steps for part, seconds in parts.items()},
        "share": shares,
        "neither_environment_nor_update": 1.0 - shares["environment"] - shares["update"],
    }


def _trainer(task: suites.Task, variant: Variant, seeds: int, setting: Setting) -> tuple[Trainer, Placement]:
    """The trainer that a worker of `flowbench run` would build, and its placement."""
    entry, protocol = variant.entry, variant.protocol
    spread = placement.spread(seeds, setting.device, threads=setting.threads, precision=setting.precision)
    trainer = build_trainer(
        partial(suites.make, task),
        entry.load(),
        variant.config,
        list(range(seeds)),
        steps=protocol.steps,
        evaluate_every=protocol.every,
        evaluation_episodes=protocol.episodes,
        placement=spread,
        build_agent=partial(build_agent, entry.name, entry.target, dataclasses.asdict(variant.config)),
    )
    if trainer.note:
        print(f"flowbench: {variant.label}: {trainer.note}", file=sys.stderr)
    return trainer, spread
