"""The outcome of an experiment that is not a grid of runs: a table and a figure."""

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
    """A table, and the files of the figure."""

    columns: list[str]
    rows: list[list[str]]
    figures: list[Path]


@contextmanager
def figure_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError raised inside into the UsageError that figures cannot be written to `folder`."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"--figures {str(folder)!r} cannot be written: {error.strerror}") from error


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure in every format and return the paths; `path` has no suffix. Raises UsageError."""
    paths = [path.with_name(f"{path.name}.{extension}") for extension in FORMATS]
    with figure_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        for each in paths:
            figure.savefig(each, dpi=200)
    return paths
