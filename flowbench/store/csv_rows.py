"""The CSV files of a run: numbers, written line by line and readable whenever the run is killed."""

from __future__ import annotations

import csv
import io
import math
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from flowbench.common.errors import name_file

if TYPE_CHECKING:
    import pandas as pd


TABLES = ("evals.csv", "train.csv")  # of every run
TAIL_BYTES = 65536  # at the end of a file, read to get its last rows
TAIL_ROWS = 200
LARGEST = 2**53  # the largest integer up to which every integer is a float
ADDED = frozenset(["success"])  # columns that files of earlier versions may lack


class Unreadable(ValueError):
    """A file that is not a table of numbers."""


class RowWriter:
    """Appends rows to a CSV file and flushes each."""

    def __init__(self, path: Path, columns: Sequence[str], size: int | None = None) -> None:
        """Start a new file with its header, or continue after its first `size` bytes and drop the rows behind them.

        A file that an earlier version started without a column in `ADDED` continues without it.
        """
        self._columns, self._path = list(columns), path
        self._omitted: frozenset[str] = frozenset()
        if size is None:
            path.unlink(missing_ok=True)  # a link's target must not be overwritten
            self._file = path.open("w", encoding="utf-8", newline="")
            self._write(self._columns)
            return
        self._file = path.open("r+", encoding="utf-8", newline="")
        header = self._file.readline()
        older = [column for column in columns if column not in ADDED]
        if header == _csv_line(older):
            self._columns, self._omitted = older, frozenset(columns) - frozenset(older)
        if header != _csv_line(self._columns):
            self._file.close()
            raise ValueError(f"{path} has other columns than this run writes: {header.rstrip()}")
        self._file.seek(size)
        self._file.truncate()

    def append(self, row: Mapping[str, float]) -> None:
        """Append one row; a column without a value stays empty."""
        unexpected = row.keys() - set(self._columns) - self._omitted
        if unexpected:
            raise ValueError(f"no column for {', '.join(sorted(unexpected))}")
        self._write([_cell_text(row.get(column)) for column in self._columns])

    def close(self) -> None:
        with name_file(self._path):
            self._file.close()

    def _write(self, values: Sequence[str]) -> None:
        with name_file(self._path):
            self._file.write(_csv_line(values))
            self._file.flush()


def _csv_line(values: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def _cell_text(value: float | None) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def read(path: Path) -> pd.DataFrame:
    """A CSV file of a run as numbers, without an incomplete last line; no rows if there is no file.

    Raises Unreadable for a file that cannot be read or is not a table.
    """
    import pandas as pd

    header, body = _lines(path)
    frame: pd.DataFrame = pd.DataFrame(body, columns=header).apply(pd.to_numeric, errors="coerce")
    return frame


def columns(path: Path, names: Sequence[str]) -> dict[str, list[float]]:
    """Some columns of a file, without those that it lacks; much faster than `read`."""
    header, body = _lines(path)
    places = {name: header.index(name) for name in names if name in header}
    return {name: [_number(line[place]) for line in body] for name, place in places.items()}


class Tail:
    """The last rows of a CSV file that is being written; each update reads only what is new."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        """`names` are the columns to read; one that the file lacks is NaN in every row."""
        self.rows: deque[tuple[float, ...]] = deque(maxlen=TAIL_ROWS)
        self._path, self._names = path, list(names)
        self._mark: tuple[int, int, int] | None = None  # of the file when it was read last
        self._header, self._last, self._end = b"", b"", 0  # the last complete line that was read, and where it ends

    def update(self) -> None:
        """Bring `rows` up to date; without a file there are none. Raises Unreadable, or OSError."""
        try:
            found = self._path.stat()
            mark = (found.st_ino, found.st_size, found.st_mtime_ns)
            if mark == self._mark:
                return
            with self._path.open("rb") as file:
                new = self._new(file, found.st_size)
        except FileNotFoundError:
            self._forget()
            return
        whole = new[: new.rfind(b"\n") + 1]
        if whole:
            header, body = _table((self._header + whole).decode("utf-8", errors="replace"), self._path)
            places = [header.index(name) if name in header else None for name in self._names]
            for line in body:
                self.rows.append(tuple(math.nan if place is None else _number(line[place]) for place in places))
            self._end += len(whole)
            self._last = whole[whole.rfind(b"\n", 0, -1) + 1 :]
        self._mark = mark

    def _new(self, file: BinaryIO, size: int) -> bytes:
        """What follows the lines that were read, or the end of the file if it was replaced."""
        if self._last and size - self._end <= TAIL_BYTES:
            file.seek(self._end - len(self._last))
            if file.read(len(self._last)) == self._last:
                return file.read()
        self._forget()
        file.seek(0)
        self._header = file.readline()
        self._end = max(len(self._header), size - TAIL_BYTES)
        file.seek(self._end)
        if self._end > len(self._header):
            self._end += len(file.readline())  # the rest of an incomplete line
        return file.read()

    def _forget(self) -> None:
        self.rows.clear()
        self._mark, self._header, self._last, self._end = None, b"", b"", 0


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _lines(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the complete lines below it."""
    if not path.exists():
        return [], []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from error
    return _table(text, path)


def _table(text: str, path: Path) -> tuple[list[str], list[list[str]]]:
    # A disk that lost power leaves zero bytes, which the csv module of Python 3.10 rejects.
    whole = text[: text.rfind("\n") + 1].replace("\0", "")
    try:
        lines = list(csv.reader(io.StringIO(whole)))
    except csv.Error as error:
        raise Unreadable(f"{path}: {error}") from error
    if not lines:
        return [], []
    header, *body = lines
    if len(set(header)) < len(header):
        raise Unreadable(f"{path}: two columns share a name")
    return header, [line for line in body if len(line) == len(header)]
