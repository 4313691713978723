"""Experiments that are grids: train what is due, then print the report and draw."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from flowbench import grid, report, store
from flowbench.plan import Cell
from flowbench.report import figures
from flowbench.request import Request


def cost(scale: Mapping[str, Any]) -> str:
    """How much there is to train."""
    cells = _cells(scale)
    steps = sum(cell.variant.protocol.steps for cell in cells)
    return f"{len(cells)} runs, {steps:,} environment steps together"


def run(scale: Mapping[str, Any], results: Path, folder: Path, **options: Any) -> int:
    """Train and draw into `folder`; `options` are those of `flowbench.grid.run`. The exit status of the grid."""
    status = grid.run(_cells(scale), results, **options)
    if status or options.get("dry_run"):
        return status
    cells = _cells(scale)
    found = store.load(results, [cells[0].suite.name], list({cell.variant.label for cell in cells}))
    built = report.build(found.runs, found.evals)
    report.show(built, Console())
    for path in figures.save(built, found.runs, found.evals, folder):
        print(f"drew {path}")
    return status


def _request(scale: Mapping[str, Any]) -> Request:
    return Request.of({key: value for key, value in scale.items() if key != "draw"}, "experiment")


def _cells(scale: Mapping[str, Any]) -> list[Cell]:
    return _request(scale).cells()
