"""Experiments that are grids of runs: train the due runs, then print the report and draw the figures.

In addition to the keys of a grid file, a scale may have `draw` (one kind of figure or several; default: all) and
`published` (algorithms whose imported curves are shown as well, named as in their files).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from flowbench import report
from flowbench.common.errors import one_of
from flowbench.grid.run import run_grid
from flowbench.plan.cells import Cell
from flowbench.plan.options import RunOptions
from flowbench.plan.request import Request
from flowbench.report import figures
from flowbench.report.drawing import KINDS, Drawing
from flowbench.store.load import Exactly, load_selected


def cost(scale: Mapping[str, Any]) -> str:
    """How much there is to train."""
    grid = cells(scale)
    steps = sum(cell.variant.protocol.steps for cell in grid)
    return f"{len(grid)} runs, {steps:,} environment steps together"


def run(scale: Mapping[str, Any], results: Path, folder: Path, options: RunOptions) -> int:
    """Train, print the report and draw into `folder`; return the exit code of the grid."""
    draw = scale.get("draw", KINDS)
    kinds = tuple(one_of("figure", kind, KINDS) for kind in ([draw] if isinstance(draw, str) else draw))
    grid = cells(scale)
    status = run_grid(grid, results, options)
    if status not in (0, 1) or options.dry_run:
        return status  # with status 1 some cells failed; the report names them as missing
    found = load_selected(results, Exactly(grid, scale.get("published", ())))
    for problem in found.problems:
        print(f"flowbench: left out: {problem}", file=sys.stderr)
    built = report.build(found.runs, found.evals)
    report.show(built, Console())
    for path in figures.draw(built, found.runs, found.evals, Drawing(folder, kinds=kinds)):
        print(f"drew {path}")
    return status


def cells(scale: Mapping[str, Any]) -> list[Cell]:
    """The cells of the grid at a scale."""
    keys = {key: value for key, value in scale.items() if key not in ("draw", "published")}
    return Request.of(keys, "experiment").cells()
