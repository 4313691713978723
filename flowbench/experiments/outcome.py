"""What an experiment came to, when it is not a grid of runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from flowbench.common.errors import UsageError

FORMATS = ("svg", "pdf", "png")


@dataclass(frozen=True)
class Outcome:
    """A table of numbers, and the files of the figure."""

    columns: list[str]
    rows: list[list[str]]
    figures: list[Path]


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Has an OSError within, of figures that cannot be written there, be a UsageError."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"--figures {str(folder)!r} cannot be written: {error.strerror}") from error


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure in every format; `path` has no suffix. The paths written. Raises UsageError."""
    written = [path.with_name(f"{path.name}.{extension}") for extension in FORMATS]
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        for each in written:
            figure.savefig(each, dpi=200)
    return written
