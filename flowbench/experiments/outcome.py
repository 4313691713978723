"""The outcome of an experiment that is not a grid of runs: a table and a figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

FORMATS = ("svg", "pdf", "png")


@dataclass(frozen=True)
class Outcome:
    """A table, and the files of the figure."""

    columns: list[str]
    rows: list[list[str]]
    figures: list[Path]


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure in every format and return the paths; `path` has no suffix."""
    paths = [path.with_name(f"{path.name}.{extension}") for extension in FORMATS]
    path.parent.mkdir(parents=True, exist_ok=True)
    for each in paths:
        figure.savefig(each, dpi=200)
    return paths
