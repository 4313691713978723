"""`flowbench run --seeds auto:20`: add seeds until every pair of algorithms is decided, up to 20 seeds."""

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
from flowbench.grid.run import check_code, run_grid
from flowbench.plan.cells import Cell
from flowbench.plan.options import RunOptions
from flowbench.schedule.groups import find_due
from flowbench.stats import Pair, cautions
from flowbench.store.load import Exactly, load_selected

if TYPE_CHECKING:
    from flowbench.schedule.executors.ray import Cluster

SHOWN = 5  # the number of incomplete runs that are listed by name


def run(cells: Sequence[Cell], root: Path, options: RunOptions, cluster: Cluster | None = None) -> int:
    """Train the cells, which have seeds 0 to `options.auto` - 1, look by look; after a look, undecided algorithms only.

    Looks are repeated for runs that exist already, so the same command gives the same verdict. Returns the exit
    code of `run_grid`, or 1 if a look is not possible because runs are incomplete. Raises UsageError
    for fewer than two algorithms, for so few seeds that nothing could be decided, and for a shard.
    """
    most = options.auto or 0
    labels = list(dict.fromkeys(cell.variant.label for cell in cells))
    console, plan = Console(), stats.looks(most)
    _check(labels, plan, len({cell.task.name for cell in cells}))
    if options.shard:
        raise UsageError(
            "--shard trains only a part of the grid, but --seeds auto needs all of it; leave one of them out"
        )
    if options.dry_run:
        status = run_grid(cells, root, options, cluster)
        seeds = ", ".join(map(str, plan))
        _print(console, f"at most these runs: with looks at {seeds} seeds, training ends when every pair is decided")
        return status
    if not options.any_code:
        check_code(find_due(root, cells, options.force), options)  # also what later looks need
    remaining, found, failed, warnings = set(labels), list[Pair](), 0, list[str]()
    for number, (low, high) in enumerate(pairwise((0, *plan)), start=1):
        due = [cell for cell in cells if low <= cell.seed < high and cell.variant.label in remaining]
        status = run_grid(due, root, options, cluster)
        if status not in (0, 1):
            return status
        failed |= status  # a diverged run has failed, but counts if it was evaluated before
        seen = load_selected(root, Exactly([cell for cell in cells if cell.seed < high]))
        table = stats.at_step(seen.runs, seen.evals, cells[0].variant.protocol.steps)
        incomplete = _incomplete(due, table)
        if incomplete:
            problems = [f"flowbench: left out: {problem}" for problem in seen.problems]
            print(*problems, *_waiting(incomplete, high), sep="\n", file=sys.stderr)
            return 1
        found, warnings = stats.pairs(table, plan), _warnings(seen.runs, table)
        if not options.quiet:
            text_table.show(_table(found, f"Look {number} of {len(plan)}, {plural(high, 'seed')}"), console)
        remaining = {name for pair in found if pair.verdict == "undecided" for name in (pair.algo, pair.over)}
        if not remaining:
            break
    if not options.quiet:
        text_table.show_items("Warnings", warnings, console)
        console.print()
        for line in verdict(found, len(plan)):
            _print(console, line)
    return failed


def _check(labels: Sequence[str], plan: Sequence[int], tasks: int) -> None:
    option = f"--seeds auto:{plan[-1]}"
    if len(labels) < 2:
        raise UsageError(f"{option} compares algorithms: name at least two with --algo, not {labels[0]} alone")
    if plan[-1] < stats.FEWEST:
        raise UsageError(
            f"{option} can decide nothing: a verdict needs at least {stats.FEWEST} seeds of each algorithm; "
            "allow more seeds"
        )
    pairs = math.comb(len(labels), 2)
    least = stats.least_p(plan, tasks, pairs)
    if least > stats.LEVEL:
        raise UsageError(
            f"{option} can decide nothing: even if every run of one algorithm scored above every run of the other, p "
            f"would be {text_table.p_value(least)} with {plural(tasks, 'task')} and {plural(pairs, 'pair')}; "
            "allow more seeds"
        )


def _incomplete(due: Sequence[Cell], table: pd.DataFrame) -> list[str]:
    """The cells that a look needs but that do not count, and why."""
    rows = {(row["algo"], row["task"], row["seed"]): row for row in table.to_dict("records")}
    found = []
    for cell in due:
        row = rows.get((cell.variant.label, cell.task.name, cell.seed))
        if row is None:
            found.append(f"{cell}: no readable record")
        elif not row["counts"]:
            found.append(f"{cell}: {row['status']}, {row['reason']}")
    return found


def _waiting(incomplete: Sequence[str], seeds: int) -> list[str]:
    head = [f"flowbench: no look at {plural(seeds, 'seed')} yet: {text}" for text in incomplete[:SHOWN]]
    return [*head, f"flowbench: and {len(incomplete) - SHOWN} more"] if len(incomplete) > SHOWN else head


def _warnings(runs: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """What a reader of the verdict must know about the runs."""
    step = int(runs["steps"].max())
    return [
        *cautions.differences(runs, table),
        *cautions.mixed(runs, table),
        *cautions.evaluations(table, step),
    ]


def verdict(found: Sequence[Pair], looks: int) -> list[str]:
    """The result in sentences."""
    words = {
        "better": "{0} is better than {1}",
        "worse": "{1} is better than {0}",
        "undecided": "{0} and {1}: undecided",
    }
    lines = [
        f"{words[pair.verdict].format(pair.algo, pair.over)} with {plural(pair.seeds, 'seed')} of each "
        f"(p {text_table.p_value(pair.p, '= ')})."
        for pair in sorted(found, key=lambda pair: pair.verdict == "undecided")
    ]
    over = f"{plural(looks, 'planned look')}" + (f" and {len(found)} pairs" if len(found) > 1 else "")
    return [
        *lines,
        "Group-sequential permutation test, stratified by task; the probability of any false verdict is at most 5 % "
        f"over {over}.",
    ]


def _table(found: Sequence[Pair], title: str) -> text_table.TextTable:
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


def _print(console: Console, text: str) -> None:
    console.print(Text(text))
