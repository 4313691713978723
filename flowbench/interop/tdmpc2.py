"""TD-MPC2's repository (github.com/nicklashansen/tdmpc2): `results/<algo>/<task>.csv` with `step,reward,seed`.

Its runs repeat each action twice; the files count simulator steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from flowbench.interop.curve import Curve, Point, rows, write_rows
from flowbench.plan.cells import task_folder

SUFFIX = ".csv"
COLUMNS = ("step", "reward", "seed")


def read(path: Path) -> Iterator[Point]:
    """The points of a file. Its name is the task, its folder's name the algorithm. Raises UsageError."""
    algo = path.resolve().parent.name
    for row in rows(path, COLUMNS):
        yield Point(algo, path.stem, row.whole("seed"), row.whole("step"), row.number("reward"))


def write(curves: Sequence[Curve], path: Path) -> None:
    """Write a folder for each algorithm, with a file for each task."""
    files: dict[Path, list[Curve]] = {}
    for own in curves:
        files.setdefault(path / own.algo.replace("/", "_") / f"{task_folder(own.task)}.csv", []).append(own)
    for file, of_file in files.items():
        lines = ((step, value, own.seed) for own in of_file for step, value in own.points.items())
        write_rows(file, COLUMNS, lines)
