"""What an experiment came to, when it is not a grid of runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

FORMATS = ("svg", "pdf", "png")


@dataclass(frozen=True)
class Outcome:
    """A table of numbers, and the files of the figure."""

    columns: list[str]
    rows: list[list[str]]
    figures: list[Path]


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure in every format; `path` has no suffix. The paths written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path.with_name(f"{path.name}.{extension}") for extension in FORMATS]
    for each in written:
        figure.savefig(each, dpi=200)
    return written
