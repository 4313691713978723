"""A short training of each kind of group of a grid, so that what the grid will take can be estimated."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flowbench.grid import cost_model
from flowbench.grid.cost_model import Record
from flowbench.plan.cells import Cell, Protocol
from flowbench.schedule.groups import Group
from flowbench.schedule.resources import Slots
from flowbench.schedule.runner import Outcome, Runner
from flowbench.store import records

STEPS = {"cpu": 300, "cuda": 3000}  # a GPU needs longer until what it does once, such as graphs, weighs little
RANDOM_STEPS = 0.2  # of them, at most: random actions show nothing of an algorithm's speed


def measure(groups: Sequence[Group], slots: Slots) -> tuple[list[Record], list[Outcome]]:
    """Train one group of each kind for a few hundred steps, in a folder that is removed: records, and what failed.

    Workers train, as of the grid itself, in the same slots; so what they leave is what an earlier run would have left.
    Raises KeyboardInterrupt when it was interrupted.
    """
    short = [Group(tuple(_shortened(cell, slots) for cell in group.cells)) for group in cost_model.one_of_each(groups)]
    slots = dataclasses.replace(slots, jobs=max(1, min(slots.jobs, len(short))))
    with tempfile.TemporaryDirectory(prefix="flowbench-") as folder:
        root = Path(folder)
        runner = Runner(root, slots, lambda group, event: None)
        outcomes = list(runner.run(short))
        if runner.interrupted:
            raise KeyboardInterrupt
        made = [records.recorded(root / group.cells[0].path) for group in short]
    measured: list[Record] = [{**record, "calibration": True} for record in made if cost_model.tells(record)]
    return measured, [outcome for outcome in outcomes if outcome.status == "failed"]


def _shortened(cell: Cell, slots: Slots) -> Cell:
    """The cell with few steps, and one evaluation of one episode at their end."""
    variant = cell.variant
    steps = min(STEPS["cuda" if slots.gpus else "cpu"], variant.protocol.steps)
    config = dataclasses.replace(
        variant.config, random_steps=min(variant.config.random_steps, int(RANDOM_STEPS * steps))
    )
    return dataclasses.replace(
        cell, variant=dataclasses.replace(variant, config=config, protocol=Protocol(steps, steps, 1))
    )
