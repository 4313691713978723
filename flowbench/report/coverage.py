"""The coverage of a grid: which seeds are done, running, failed or missing, by task and algorithm."""

from __future__ import annotations

import pandas as pd
from rich.console import Console
from rich.text import Text

from flowbench.common import text_table
from flowbench.common.errors import UsageError, printable
from flowbench.common.text_table import TextTable, ranges
from flowbench.stats import distinct_labels, is_published

STYLES = {
    "done": "green",
    "running": "cyan",
    "failed": "red",
    "stopped": "yellow",
    "queued": "yellow",
    "missing": "dim",
}


def matrix(runs: pd.DataFrame) -> pd.DataFrame:
    """One row for each suite, task and algorithm, with the seeds of each status.

    As in a report, "missing" are the seeds that the algorithm has on another task of the suite.
    """
    rows = []
    for suite, of_suite in runs.groupby("suite", sort=False):
        seeds = of_suite.groupby("algo")["seed"].agg(set)
        for task in sorted(set(of_suite["task"])):
            for algo in dict.fromkeys(of_suite["algo"]):
                cells = of_suite[(of_suite["task"] == task) & (of_suite["algo"] == algo)]
                by_status = {status: sorted(cells["seed"][cells["status"] == status]) for status in STYLES}
                by_status["missing"] = sorted(seeds[algo] - set(cells["seed"]))
                rows.append({"suite": suite, "task": task, "algo": algo, **by_status})
    return pd.DataFrame(rows)


def show(runs: pd.DataFrame, console: Console) -> None:
    """Print one table for each suite, and the names of published curves. Raises UsageError if there are no runs."""
    if runs.empty:
        raise UsageError("no runs here yet; start some with `flowbench run`")
    runs, _ = distinct_labels(runs, pd.DataFrame(columns=["suite", "task", "algo", "config_id", "seed"]))
    published = is_published(runs)
    if not published.all():
        _show_ours(matrix(runs[~published]), console)
    for suite, of_suite in runs[published].groupby("suite"):
        algorithms = ", ".join(sorted(set(of_suite["algo"])))
        console.print(Text(printable(f"{suite}: {len(of_suite)} published runs for reference: {algorithms}")))


def _show_ours(covered: pd.DataFrame, console: Console) -> None:
    for suite, of_suite in covered.groupby("suite", sort=False):
        algorithms = list(dict.fromkeys(of_suite["algo"]))
        rows = []
        for task, of_task in of_suite.groupby("task", sort=False):
            cells = {row["algo"]: row for _, row in of_task.iterrows()}
            rows.append((str(task), *(_words(cells[algo]) for algo in algorithms)))
        text_table.show(TextTable(str(suite), ("task", *algorithms), tuple(rows), styles=STYLES), console)
        total = {status: sum(map(len, of_suite[status])) for status in STYLES}
        console.print(Text("\n" + ", ".join(f"{count} {status}" for status, count in total.items() if count)))


def _words(row: pd.Series) -> str:
    """``3 done, 2 failed (0-1)``: the seeds are listed only where something is left to do."""
    parts = []
    for status in STYLES:
        seeds = row[status]
        if seeds:
            which = "" if status in ("done", "running") else f" ({ranges(seeds)})"
            parts.append(f"{len(seeds)} {status}{which}")
    return ", ".join(parts)
