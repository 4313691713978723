"""Learning curves, and reading and writing the CSV files that hold them."""

from __future__ import annotations

import csv
import difflib
import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from flowbench.common.errors import UsageError
from flowbench.store.csv_rows import LARGEST


class Point(NamedTuple):
    """One evaluation in a file. Names are spelled as in the file; the step counts simulator steps."""

    algo: str
    task: str
    seed: int
    step: int
    value: float


@dataclass
class Curve:
    """The evaluations of one run: its returns by simulator step, in order."""

    algo: str
    task: str
    seed: int
    points: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """The curves of a file, and the number of values that a later value at the same step replaced."""

    path: Path
    curves: tuple[Curve, ...]
    replaced: int
    sha256: str


def gather(path: Path, points: Iterable[Point]) -> Source:
    """The curves that consist of these points of a file."""
    curves: dict[tuple[str, str, int], Curve] = {}
    replaced = 0
    for algo, task, seed, step, value in points:
        curve = curves.setdefault((algo, task, seed), Curve(algo, task, seed))
        replaced += step in curve.points
        curve.points[step] = value
    for curve in curves.values():
        curve.points = dict(sorted(curve.points.items()))
    return Source(path, tuple(curves.values()), replaced, hashlib.sha256(path.read_bytes()).hexdigest())


def text(path: Path) -> str:
    """A file's text. Raises UsageError if it cannot be read as UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text (byte {error.start})") from error


@dataclass(frozen=True)
class Row:
    """A line of a CSV file. Its methods convert a column, or raise UsageError naming file and line."""

    path: Path
    line: int
    cells: dict[str, str]

    def name(self, column: str) -> str:
        """A text, which must not be empty."""
        return self.cells[column].strip() or self._reject(column, "a name")

    def number(self, column: str) -> float:
        """A number. It may be nan or inf, as in a run that diverged."""
        try:
            return float(self.cells[column])
        except ValueError:
            return float(self._reject(column, "a number"))

    def whole(self, column: str) -> int:
        """A whole number of at least 0; 5e5 and 500000.0 are accepted."""
        number = whole(self.number(column))
        return int(self._reject(column, "a whole number of at least 0")) if number is None else number

    def _reject(self, column: str, wanted: str) -> str:
        raise UsageError(f"{self.path}: line {self.line}: {column} is {self.cells[column]!r}, not {wanted}")


def whole(number: float) -> int | None:
    """A float as an int; None if it is not a whole number of at least 0."""
    return int(number) if math.isfinite(number) and 0 <= number <= LARGEST and number.is_integer() else None


def rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The lines of a CSV file that has at least these columns. Raises UsageError naming file and line."""
    lines = csv.reader(text(path).splitlines(keepends=True))
    try:
        header = next(lines, [])
        for column in columns:
            if column not in header:
                raise UsageError(f"{path}: line 1: {_lacks(column, header)}" if header else f"{path}: is empty")
            if header.count(column) > 1:
                raise UsageError(f"{path}: line 1: {header.count(column)} columns are named {column!r}")
        for cells in lines:
            if not cells:
                continue
            if len(cells) != len(header):
                raise UsageError(f"{path}: line {lines.line_num}: {len(cells)} values for {len(header)} columns")
            yield Row(path, lines.line_num, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise UsageError(f"{path}: line {lines.line_num}: {error}") from error


def header(path: Path) -> list[str]:
    """The names of the columns of a CSV file. Raises UsageError if it cannot be read."""
    return next(csv.reader(text(path).splitlines(keepends=True)[:1]), [])


def _lacks(column: str, header: Sequence[str]) -> str:
    """The message about a column that a file does not have."""
    near = difflib.get_close_matches(column, header, n=1)
    hint = f"; the nearest is {near[0]!r}" if near else ""
    return f"has no column {column!r}{hint} (columns: {', '.join(header)})"


def write_rows(path: Path, columns: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    """Write a CSV file, and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(lines)
