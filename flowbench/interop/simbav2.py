"""SimbaV2's repository (github.com/DAVIAN-Robotics/SimbaV2): `results/**/*.csv`, one row per value of a metric.

On DMControl and HumanoidBench its runs repeat each action twice; the files count simulator steps. Only the metric
`avg_return` is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from flowbench.interop.curve import Curve, Point, rows, write_rows

SUFFIX = ".csv"
COLUMNS = ("exp_name", "env_name", "seed", "metric", "env_step", "value")
RETURN = "avg_return"


def read(path: Path) -> Iterator[Point]:
    """The returns in a file. Raises UsageError naming file and line."""
    for row in rows(path, COLUMNS):
        if row.name("metric") == RETURN:
            algo, task = row.name("exp_name"), row.name("env_name")
            yield Point(algo, task, row.whole("seed"), row.whole("env_step"), row.number("value"))


def write(curves: Sequence[Curve], path: Path) -> None:
    """Write all curves to one file. Its first column has no name and numbers the rows."""
    number = count()
    lines = (
        (next(number), own.algo, own.task, own.seed, RETURN, float(step), value)
        for own in curves
        for step, value in own.points.items()
    )
    write_rows(path, ("", *COLUMNS), lines)
