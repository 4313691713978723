"""What `flowbench run --seeds auto:20` does: add seeds until every pair of algorithms is decided, or there are 20."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console
from rich.text import Text

from flowbench import stats
from flowbench.common import text_table
from flowbench.common.errors import UsageError
from flowbench.common.text_table import plural
from flowbench.grid.run import run_grid
from flowbench.plan.cells import Cell
from flowbench.plan.options import RunOptions
from flowbench.report import cautions
from flowbench.stats import Pair
from flowbench.store.load import Exactly, load_selected

if TYPE_CHECKING:
    from flowbench.schedule.executors.ray import Cluster

SHOWN = 5  # of the runs that a look waits for, by name


def run(cells: Sequence[Cell], root: Path, options: RunOptions, cluster: Cluster | None = None) -> int:
    """Train the cells, which have seeds 0 to `options.auto` - 1, look by look, those of undecided algorithms only.

    What is there already is looked at again, so that the same command comes to the same verdict. Returns the
    exit code of `run_grid`, or 1 where a look must wait. Raises UsageError for fewer than two
    algorithms, for so few seeds that nothing could be decided, and for a shard.
    """
    most = options.auto or 0
    labels = list(dict.fromkeys(cell.variant.label for cell in cells))
    console, plan = Console(), stats.looks(most)
    _check(labels, plan, len({cell.task.name for cell in cells}))
    if options.shard:
        raise UsageError("--shard trains a part, and --seeds auto needs the whole to decide; leave one of them out")
    if options.dry_run:
        status = run_grid(cells, root, options, cluster)
        _say(console, f"that is the most it can take: looks at {_listed(plan)} seeds, until every pair is decided")
        return status
    going_on, found, failed, warnings = set(labels), list[Pair](), 0, list[str]()
    for number, (low, high) in enumerate(pairwise((0, *plan)), start=1):
        due = [cell for cell in cells if low <= cell.seed < high and cell.variant.label in going_on]
        status = run_grid(due, root, options, cluster)
        if status not in (0, 1):
            return status
        failed |= status  # a run that diverged has failed, and counts if it was evaluated before
        seen = load_selected(root, Exactly([cell for cell in cells if cell.seed < high]))
        table = stats.at_step(seen.runs, seen.evals, cells[0].variant.protocol.steps)
        lacking = _lacking(due, table)
        if lacking:
            problems = [f"flowbench: left out: {problem}" for problem in seen.problems]
            print(*problems, *_waiting(lacking, high), sep="\n", file=sys.stderr)
            return 1
        found, warnings = stats.pairs(table, plan), _warnings(seen.runs, table)
        if not options.quiet:
            text_table.show(_grid(found, f"Look {number} of {len(plan)}, {plural(high, 'seed')}"), console)
        going_on = {name for pair in found if pair.verdict == "undecided" for name in (pair.algo, pair.over)}
        if not going_on:
            break
    if not options.quiet:
        text_table.show_items("Warnings", warnings, console)
        console.print()
        for line in verdict(found, len(plan)):
            _say(console, line)
    return failed


def _check(labels: Sequence[str], plan: Sequence[int], tasks: int) -> None:
    asked = f"--seeds auto:{plan[-1]}"
    if len(labels) < 2:
        raise UsageError(f"{asked} compares algorithms: name at least two with --algo, not {labels[0]} alone")
    pairs = math.comb(len(labels), 2)
    least = stats.least_p(plan, tasks, pairs)
    if least > stats.LEVEL:
        raise UsageError(
            f"{asked} can decide nothing: were every run of one above every run of the other, p would be "
            f"{text_table.p_value(least)} with {plural(tasks, 'task')} and {plural(pairs, 'pair')}; allow more seeds"
        )


def _lacking(due: Sequence[Cell], table: pd.DataFrame) -> list[str]:
    """The cells that a look needs and that do not count, and why."""
    rows = {(row["algo"], row["task"], row["seed"]): row for row in table.to_dict("records")}
    found = []
    for cell in due:
        row = rows.get((cell.variant.label, cell.task.name, cell.seed))
        if row is None:
            found.append(f"{cell}: no record that can be read")
        elif not row["counts"]:
            found.append(f"{cell}: {row['status']}, {row['reason']}")
    return found


def _waiting(lacking: Sequence[str], seeds: int) -> list[str]:
    head = [f"flowbench: no look at {plural(seeds, 'seed')} yet: {text}" for text in lacking[:SHOWN]]
    return [*head, f"flowbench: and {len(lacking) - SHOWN} more"] if len(lacking) > SHOWN else head


def _warnings(runs: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """What a reader of the verdict must know of the runs."""
    step = int(runs["steps"].max())
    return [
        *cautions.differences(runs, table),
        *cautions.mixed(runs, table),
        *cautions.normalising(runs),
        *cautions.evaluations(table, step),
    ]


def verdict(found: Sequence[Pair], looks: int) -> list[str]:
    """What it came to, in sentences."""
    words = {"better": "{0} is better than {1}", "worse": "{1} is better than {0}"}
    said = [
        f"{words[pair.verdict].format(pair.algo, pair.over)}: p {text_table.p_value(pair.p, '= ')}, "
        f"{plural(pair.seeds, 'seed')} of each."
        for pair in found
        if pair.verdict in words
    ]
    said += [
        f"{pair.algo} and {pair.over}: undecided with {plural(pair.seeds, 'seed')} of each "
        f"(p {text_table.p_value(pair.p, '= ')})."
        for pair in found
        if pair.verdict not in words
    ]
    over = f"over {plural(looks, 'planned look')}" + (f" and {len(found)} pairs" if len(found) > 1 else "")
    return [*said, f"Group-sequential permutation test, stratified by task; at most 5 % of false verdicts {over}."]


def _grid(found: Sequence[Pair], title: str) -> text_table.TextTable:
    rows = [
        (
            f"{pair.algo} > {pair.over}",
            str(pair.seeds),
            f"{pair.estimate:.2f}",
            text_table.p_value(pair.p),
            pair.verdict,
        )
        for pair in found
    ]
    return text_table.TextTable(title, ("X > Y", "seeds", "P(X > Y)", "p", "X is"), tuple(rows))


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _say(console: Console, text: str) -> None:
    console.print(Text(text))
