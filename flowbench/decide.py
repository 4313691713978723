"""What `flowbench run --seeds auto:20` does: add seeds until every pair of algorithms is decided, or there are 20."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from flowbench import grid, layout, stats, store
from flowbench.errors import UsageError
from flowbench.layout import plural
from flowbench.plan import Cell
from flowbench.stats import Pair


def run(
    cells: Sequence[Cell], most: int, root: Path, *, dry_run: bool = False, quiet: bool = False, **options: Any
) -> int:
    """Train the cells, which have seeds 0 to `most` - 1, look by look, those of undecided algorithms only.

    What is there already is looked at again, so that the same command comes to the same verdict. `options` are those
    of `grid.run`, whose exit status this has. Raises UsageError for fewer than two algorithms and for a shard.
    """
    labels = list(dict.fromkeys(cell.variant.label for cell in cells))
    if len(labels) < 2:
        raise UsageError(
            f"--seeds auto:{most} compares algorithms: name at least two with --algo, not {labels[0]} alone"
        )
    if options.get("shard"):
        raise UsageError("--shard trains a part, and --seeds auto needs the whole to decide; leave one of them out")
    console, plan = Console(), stats.looks(most)
    if dry_run:
        status = grid.run(cells, root, dry_run=True, quiet=quiet, **options)
        _say(console, f"that is the most it can take: looks at {_listed(plan)} seeds, until every pair is decided")
        return status
    going_on, found, failed = set(labels), list[Pair](), 0
    for number, (low, high) in enumerate(pairwise((0, *plan)), start=1):
        due = [cell for cell in cells if low <= cell.seed < high and cell.variant.label in going_on]
        status = grid.run(due, root, quiet=quiet, auto=most, **options)
        if status not in (0, 1):
            return status
        failed |= status  # a run that diverged has failed, and counts
        found = stats.pairs(_table([cell for cell in cells if cell.seed < high], root), plan)
        if any(pair.seeds < high and pair.verdict == "undecided" for pair in found):
            print(f"flowbench: not every run is finished: no look at {high} seeds yet", file=sys.stderr)
            return failed
        if not quiet:
            layout.show(_grid(found, f"Look {number} of {len(plan)}, {plural(high, 'seed')}"), console)
        going_on = {name for pair in found if pair.verdict == "undecided" for name in (pair.algo, pair.over)}
        if not going_on:
            break
    if not quiet:
        console.print()
        for line in verdict(found, len(plan)):
            _say(console, line)
    return failed


def verdict(found: Sequence[Pair], looks: int) -> list[str]:
    """What it came to, in sentences."""
    words = {"better": "{0} is better than {1}", "worse": "{1} is better than {0}"}
    said = [
        f"{words[pair.verdict].format(pair.algo, pair.over)}: p {layout.p_value(pair.p, '= ')}, "
        f"{plural(pair.seeds, 'seed')} of each."
        for pair in found
        if pair.verdict in words
    ]
    said += [
        f"{pair.algo} and {pair.over}: undecided with {plural(pair.seeds, 'seed')} of each (p {pair.p:.3f})."
        for pair in found
        if pair.verdict not in words
    ]
    over = f"over {plural(looks, 'planned look')}" + (f" and {len(found)} pairs" if len(found) > 1 else "")
    return [*said, f"Group-sequential permutation test, stratified by task; at most 5 % of false verdicts {over}."]


def _table(cells: Sequence[Cell], root: Path) -> pd.DataFrame:
    """The table of `stats.at_step` of these very cells, at their last step."""
    found = store.read(root, store.Exactly(cells))
    return stats.at_step(found.runs, found.evals, cells[0].variant.protocol.steps)


def _grid(found: Sequence[Pair], title: str) -> layout.Grid:
    rows = [
        (f"{pair.algo} > {pair.over}", str(pair.seeds), f"{pair.estimate:.2f}", layout.p_value(pair.p), pair.verdict)
        for pair in found
    ]
    return layout.Grid(title, ("X > Y", "seeds", "P(X > Y)", "p", "X is"), tuple(rows))


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _say(console: Console, text: str) -> None:
    console.print(Text(text))
