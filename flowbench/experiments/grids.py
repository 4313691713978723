"""Experiments that are grids: train what is due, then print the report and draw.

Beside the keys of a grid a scale has `draw`, one kind of figure or several (all if left out), and `published`, the
algorithms whose imported curves stand beside, as their files call them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from flowbench import report
from flowbench.common.errors import one_of
from flowbench.experiments.outcome import writing
from flowbench.grid.run import run_grid
from flowbench.plan.cells import Cell
from flowbench.plan.options import RunOptions
from flowbench.plan.request import Request
from flowbench.report import figures
from flowbench.store.load import Exactly, load_selected


def cost(scale: Mapping[str, Any]) -> str:
    """How much there is to train."""
    cells = _cells(scale)
    steps = sum(cell.variant.protocol.steps for cell in cells)
    return f"{len(cells)} runs, {steps:,} environment steps together"


def run(scale: Mapping[str, Any], results: Path, folder: Path, options: RunOptions) -> int:
    """Train and draw into `folder`; return the exit code of the grid."""
    draw = scale.get("draw", figures.KINDS)
    kinds = [one_of("figure", kind, figures.KINDS) for kind in ([draw] if isinstance(draw, str) else draw)]
    cells = _cells(scale)
    status = run_grid(cells, results, options)
    if status not in (0, 1) or options.dry_run:
        return status  # a cell that failed is named as missing, one that diverged counts
    found = load_selected(results, Exactly(cells, scale.get("published", ())))
    for problem in found.problems:
        print(f"flowbench: left out: {problem}", file=sys.stderr)
    built = report.build(found.runs, found.evals)
    report.show(built, Console())
    with writing(folder):
        drawn = figures.save(built, found.runs, found.evals, folder, kinds=kinds)
    for path in drawn:
        print(f"drew {path}")
    return status


def _request(scale: Mapping[str, Any]) -> Request:
    return Request.of({key: value for key, value in scale.items() if key not in ("draw", "published")}, "experiment")


def _cells(scale: Mapping[str, Any]) -> list[Cell]:
    return _request(scale).cells()
