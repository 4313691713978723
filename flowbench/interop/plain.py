"""A plain CSV file: `algo,task,seed,simulator_step,return`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from flowbench.common.csv_cells import cell, text
from flowbench.interop.curve import Curve, Point, header, rows, write_rows

SUFFIX = ".csv"
STEP = "simulator_step"
COLUMNS = ("algo", "task", "seed", STEP, "return")


def read(path: Path) -> Iterator[Point]:
    """The points of a file; a column `step` also holds simulator steps. Raises UsageError naming file and line."""
    names = header(path)
    step = "step" if "step" in names and STEP not in names else STEP
    for row in rows(path, [step if name == STEP else name for name in COLUMNS]):
        algo, task = text(row.name("algo")), text(row.name("task"))
        yield Point(algo, task, row.whole("seed"), row.whole(step), row.number("return"))


def write(curves: Sequence[Curve], path: Path) -> None:
    """Write all curves to one file."""
    lines = (
        (cell(own.algo), cell(own.task), own.seed, step, value) for own in curves for step, value in own.points.items()
    )
    write_rows(path, COLUMNS, lines)
