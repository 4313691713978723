"""Where the time of a whole training run goes: the trainer on a task, its clock read at the end."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import suites
from flowbench.bench.setting import Setting
from flowbench.plan.cells import Variant
from flowbench.train import placement
from flowbench.train.build import build_agent, build_trainer
from flowbench.train.placement import Placement
from flowbench.train.trainer import Trainer
from suites.task import unknown

STEPS = 3000


def find(name: str) -> tuple[suites.Suite, suites.Task]:
    """A task of that name in any suite, or in any source, without action repeat. Raises SuiteError."""
    shipped = [suites.load(each, check_tasks=False) for each in suites.names()]
    # Those with scores of the literature first: the quick suite holds actions for longer than most.
    for suite in sorted(shipped, key=lambda suite: not suite.comparable):
        for task in suite.tasks:
            if task.name == name:
                return suite, task
    known = []
    for source in suites.sources():
        try:
            names = suites.tasks(source)
        except suites.SuiteError:  # what it needs is not installed
            continue
        if name in names:
            task = suites.Task(name, source, 1, suites.Score(0.0, 1.0))
            return suites.Suite("bench", "Bench", (task,), STEPS, suites.Evaluation(STEPS, 1)), task
        known += names
    raise unknown("task", name, known)


def measure(task: suites.Task, variant: Variant, seeds: int, setting: Setting) -> dict[str, Any]:
    """Train `seeds` seeds for the variant's steps, with one evaluation at the end: a row of where the time went."""
    began = time.perf_counter()
    trainer, places = _trainer(task, variant, seeds, setting)
    with closing(trainer):
        built = trainer.clock.split()
        since_start = seconds_of_process()
        for _ in trainer.run():
            pass
        split = trainer.clock.split()
    steps = variant.protocol.steps
    wall = {what: split[what] - built[what] for what in split}
    return {
        "algo": variant.label,
        "task": task.name,
        "stack": seeds,
        "device": setting.device.type,
        "steps": steps,
        "seconds": wall["total"],
        "steps_per_second": steps / wall["total"],
        **spent(wall, steps),
        "build_seconds": trainer.clock.started + built["total"] - began,
        "since_start_seconds": since_start,
        "kind": trainer.kind,
        "environment_processes": places.environments,
        "evaluation_processes": places.evaluation,
        "precision": setting.precision,
        "threads": setting.threads,
    }


def spent(wall: dict[str, float], steps: int) -> dict[str, Any]:
    """A clock's seconds by what they were spent on, and the same a step and as shares of the whole."""
    parts = {what: seconds for what, seconds in wall.items() if what != "total"}
    shares = {what: seconds / wall["total"] for what, seconds in parts.items()}
    return {
        "wall": parts,
        "ms_per_step": {what: 1e3 * seconds / steps for what, seconds in parts.items()},
        "share": shares,
        "neither_environment_nor_update": 1.0 - shares["environment"] - shares["update"],
    }


def seconds_of_process() -> float | None:
    """Seconds since this process was started; None where the system does not tell as Linux does."""
    try:
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        # The 22nd field, the 20th behind the command's name, which may hold anything, in parentheses.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
    return uptime - ticks / os.sysconf("SC_CLK_TCK")


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
