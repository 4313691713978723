"""A plain CSV file: `algo,task,seed,step,return`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from flowbench.common.csv_cells import cell, text
from flowbench.interop.curve import Curve, Point, rows, write_rows

SUFFIX = ".csv"
COLUMNS = ("algo", "task", "seed", "step", "return")


def read(path: Path) -> Iterator[Point]:
    """The points of a file. Raises UsageError naming file and line."""
    for row in rows(path, COLUMNS):
        yield Point(
            text(row.name("algo")), text(row.name("task")), row.whole("seed"), row.whole("step"), row.number("return")
        )


def write(curves: Sequence[Curve], path: Path) -> None:
    """Write all curves to one file."""
    lines = (
        (cell(own.algo), cell(own.task), own.seed, step, value) for own in curves for step, value in own.points.items()
    )
    write_rows(path, COLUMNS, lines)
