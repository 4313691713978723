"""Calibration: short training runs, one of each kind of group, to estimate the cost of a grid."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flowbench.grid import cost_model
from flowbench.grid.cost_model import Measurement
from flowbench.plan.cells import Cell, Protocol
from flowbench.plan.options import RunOptions
from flowbench.schedule.groups import Group
from flowbench.schedule.resources import Slots
from flowbench.schedule.runner import Outcome, Runner
from flowbench.store import records

STEPS = {"cpu": 300, "cuda": 3000}  # more on a GPU, so that one-time work such as capturing CUDA graphs counts little
RANDOM_STEPS = 0.2  # of the steps, at most: random actions do not show the speed of an algorithm


def measure(groups: Sequence[Group], slots: Slots) -> tuple[list[Measurement], list[Outcome]]:
    """Train one group of each kind for a few steps in a temporary folder; return the measurements and the failures.

    Workers and slots are those of the grid, so that the measurements are comparable with those of earlier runs.
    Raises KeyboardInterrupt if the user interrupts it.
    """
    short = [Group(tuple(_shortened(cell, slots) for cell in group.cells)) for group in cost_model.one_of_each(groups)]
    slots = dataclasses.replace(slots, jobs=max(1, min(slots.jobs, len(short))))
    with tempfile.TemporaryDirectory(prefix="flowbench-") as folder:
        root = Path(folder)
        runner = Runner(root, slots, lambda group, event: None, RunOptions())
        outcomes = list(runner.run(short))
        if runner.interrupted:
            raise KeyboardInterrupt
        made = [Measurement.of(records.read_if_valid(root / group.cells[0].path)) for group in short]
    measured = [dataclasses.replace(each, calibration=True) for each in made if each]
    return measured, [outcome for outcome in outcomes if outcome.status == "failed"]


def _shortened(cell: Cell, slots: Slots) -> Cell:
    """The cell with few steps, and one evaluation with one episode at the end."""
    variant = cell.variant
    steps = min(STEPS["cuda" if slots.gpus else "cpu"], variant.protocol.steps)
    config = dataclasses.replace(
        variant.config, random_steps=min(variant.config.random_steps, int(RANDOM_STEPS * steps))
    )
    return dataclasses.replace(
        cell, variant=dataclasses.replace(variant, config=config, protocol=Protocol(steps, steps, 1))
    )
