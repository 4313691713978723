"""A section as tables of text, shared by the terminal and Markdown, and the terminal's own layout of them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from flowbench.report.assemble import Report, Section, ranges
from flowbench.stats import METRICS

LABEL = 22  # a label longer than this is broken over several lines, so that it widens no column of numbers
NOTHING = "-"


@dataclass(frozen=True)
class Grid:
    """A titled table of text; the first column names the rows."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def heading(section: Section, reps: int) -> list[str]:
    """The lines that say what a section's numbers are; a suite unlike the literature says so first."""
    lines = []
    if not section.comparable:
        lines.append("NOT COMPARABLE WITH THE LITERATURE" + (f": {section.note}" if section.note else ""))
    elif section.note:
        lines.append(section.note)
    low, high = section.budgets
    budget = f"{high:,}" if low == high else f"{low:,} to {high:,}"
    counts = sorted(set(section.seeds.values()))
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    sizes = [(len(section.algos), "algorithm"), (len(section.tasks), "task")]
    said = [f"{size} {noun}{'s' * (size != 1)}" for size, noun in sizes] + [f"{seeds} seed{'s' * (seeds != '1')}"]
    lines.append(f"at step {section.step:,} of {budget} (environment steps); {', '.join(said)}")
    lines.append(f"normalised scores, 95 % stratified bootstrap intervals, {reps:,} resamples")
    return lines


def grids(section: Section, *, pairs_per_task: bool = False) -> list[Grid]:
    """Aggregates, means a task and, of two algorithms or more, pairs; a first column holds labels or tasks' names."""
    rows = []
    for algo in section.algos:
        of_algo = section.aggregates[section.aggregates["algo"] == algo]
        own = of_algo.set_index("metric").to_dict("index")
        cells = [interval(own[m]["estimate"], own[m]["low"], own[m]["high"], digits=3) for m in METRICS]
        rows.append((algo, *cells, str(of_algo["seeds"].iloc[0])))
    title = "Aggregate scores over the tasks (optimality gap: lower is better)"
    aggregates = Grid(title, ("algorithm", *METRICS, "seeds"), tuple(rows))

    lines = []
    for task, group in section.per_task.groupby("task"):
        own = group.set_index("algo").to_dict("index")
        line = [str(task)]
        for algo in section.algos:
            count = own[algo]["seeds"]
            text = interval(own[algo]["mean"], own[algo]["low"], own[algo]["high"], digits=1)
            line.append(text if count == section.seeds[algo] or not count else f"{text} n={count:.0f}")
        lines.append(tuple(line))
    title = "Mean return of each task over its seeds (n: how many, where it lacks some)"
    return [aggregates, Grid(title, ("task", *section.algos), tuple(lines)), *_pairs(section, pairs_per_task)]


def _pairs(section: Section, per_task: bool) -> list[Grid]:
    """Probabilities of improvement, a row a pair, and if asked for those of each task, a column a pair."""
    if section.improvement.empty:
        return []
    rows = []
    for own in section.improvement.to_dict("records"):
        cell = interval(own["estimate"], own["low"], own["high"], digits=3)
        rows.append((f"{own['algo']} > {own['over']}", cell, str(own["verdict"]), str(own["tasks"])))
    title = "Probability of improvement over the tasks: a run of X scores above one of Y"
    overall = Grid(title, ("X > Y", "P(X > Y)", "verdict on X", "tasks"), tuple(rows))
    if not per_task:
        return [overall]
    cells = {
        (own["task"], f"{own['algo']} > {own['over']}"): interval(own["estimate"], own["low"], own["high"], digits=2)
        for own in section.improvement_per_task.to_dict("records")
    }
    pairs = [row[0] for row in rows]
    lines = [(task, *(cells.get((task, pair), NOTHING) for pair in pairs)) for task in section.tasks]
    return [overall, Grid("Probability of improvement on each task", ("task", *pairs), tuple(lines))]


def missing(section: Section) -> Grid:
    """What is missing, the seeds that miss the same in one row."""
    rows = []
    for (algo, task, status, why), group in section.missing.assign(why=_why(section.missing)).groupby(
        ["algo", "task", "status", "why"]
    ):
        rows.append((str(algo), str(task), ranges(group["seed"]), f"{status}: {why}"))
    known = sum(section.seeds.values()) * len(section.tasks)
    title = f"Missing: {len(section.missing)} of {known} runs" if rows else f"Nothing is missing of {known} runs"
    return Grid(title, ("algorithm", "task", "seeds", "status"), tuple(rows))


def interval(estimate: float, low: float, high: float, *, digits: int) -> str:
    """``0.412 [0.350, 0.470]``; a hyphen stands for what there is not."""
    if math.isnan(estimate):
        return NOTHING
    ends = f"{number(low, digits)}, {number(high, digits)}" if not math.isnan(low) else NOTHING
    return f"{number(estimate, digits)} [{ends}]"


def number(value: float, digits: int) -> str:
    """Rounded, and never ``-0.0``."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def show(report: Report, console: Console) -> None:
    """Print the report to a terminal; a table too wide for it becomes several, so that no number is cut."""
    for section in report.sections:
        console.print()
        console.print(Text(section.suite, style="bold"))
        for place, line in enumerate(heading(section, report.reps)):
            console.print(Text(line, style="bold yellow" if place == 0 and not section.comparable else ""))
        for grid in grids(section, pairs_per_task=report.pairs_per_task):
            console.print(Text(f"\n{grid.title}", style="bold"))
            for place, table in enumerate(_fit(grid, console)):
                if place:
                    console.print()
                console.print(table)
        gaps = missing(section)
        console.print(Text(f"\n{gaps.title}", style="bold" if gaps.rows else "dim"))
        if gaps.rows:
            console.print(_table(gaps, range(len(gaps.header)), numbers=False))
        if section.warnings:
            console.print(Text("\nWarnings", style="bold"))
        for warning in section.warnings:
            console.print(_item(warning))
    if report.skipped:
        console.print(Text("\nNothing to report", style="bold"))
    for suite, reason in report.skipped:
        console.print(_item(f"{suite}: {reason}"))


def _fit(grid: Grid, console: Console) -> list[Table]:
    """The grid's columns in as few tables as fit the console; a single column wider than that folds, uncut."""
    unlimited = console.options.update(width=10**6)  # or rich measures a table as no wider than the console
    parts: list[list[int]] = [[]]
    for column in range(1, len(grid.header)):
        wider = _table(grid, [0, *parts[-1], column])
        if parts[-1] and Measurement.get(console, unlimited, wider).maximum > console.width:
            parts.append([])
        parts[-1].append(column)
    return [_table(grid, [0, *part]) for part in parts]


def _table(grid: Grid, columns: Sequence[int], *, numbers: bool = True) -> Table:
    """Some columns of a grid. Cells are Text, not markup: rich would take ``[flow_steps=5]`` for a style."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="")
    for place, column in enumerate(columns):
        title = Text(_broken(grid.header[column]), style="bold")
        table.add_column(title, justify="right" if numbers and place > 0 else "left", overflow="fold")
    for row in grid.rows:
        table.add_row(*(Text(_broken(row[c]) if c == 0 else row[c]) for c in columns))
    return table


def _broken(label: str) -> str:
    """A label in lines of at most LABEL characters, broken after a comma, bracket, hash or space if it can be."""
    lines = [""]
    for piece in re.findall(r"[^,\[# ]*[,\[# ]?", label):
        if len(lines[-1]) + len(piece.rstrip()) > LABEL and lines[-1]:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line[i : i + LABEL].rstrip() for line in lines for i in range(0, max(len(line), 1), LABEL))


def _item(text: str) -> Table:
    """A bulleted paragraph whose later lines stand under its first."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("-", Text(text))
    return table


def _why(missing: pd.DataFrame) -> list[str]:
    """The reason and, of an error, its last line, which names it."""
    whys = []
    for reason, error in zip(missing["reason"], missing["error"], strict=True):
        last = (str(error).strip().splitlines() or [""])[-1].strip()
        whys.append(f"{reason}; {last}" if last else str(reason))
    return whys
