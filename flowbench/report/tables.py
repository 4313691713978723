"""A section as tables of text, shared by the terminal and Markdown, and the terminal's own layout of them."""

from __future__ import annotations

import pandas as pd
from rich.console import Console
from rich.text import Text

from flowbench.common import text_table
from flowbench.common.text_table import NOTHING, TextTable, interval, leaders, ranges
from flowbench.report.assemble import Report, Section
from flowbench.stats import METRICS


def heading(section: Section, reps: int) -> list[str]:
    """The lines that say what a section's numbers are; a suite unlike the literature says so first."""
    lines = []
    if not section.comparable:
        lines.append("NOT COMPARABLE WITH THE LITERATURE" + (f": {section.note}" if section.note else ""))
    elif section.note:
        lines.append(section.note)
    low, high = section.budgets
    budget = f"{high:,}" if low == high else f"{low:,} to {high:,}"
    ours = [algo for algo in section.algos if algo not in section.published] or section.algos
    counts = sorted({section.seeds[algo] for algo in ours})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    sizes = [(len(ours), "algorithm"), (len(section.tasks), "task")]
    said = [f"{size} {noun}{'s' * (size != 1)}" for size, noun in sizes] + [f"{seeds} seed{'s' * (seeds != '1')}"]
    lines.append(f"at step {section.step:,} of {budget} (environment steps); {', '.join(said)}")
    if section.published:
        lines.append(beside(section))
    lines.append(f"normalised scores, 95 % stratified bootstrap intervals, {reps:,} resamples")
    return lines


def beside(section: Section) -> str:
    """The line that says what published curves are there and how they are read."""
    named = "; ".join(
        f"{', '.join(algo for algo, its in section.published.items() if its == origin)} from {origin} files"
        for origin in sorted(set(section.published.values()))
    )
    return f"for reference, at step {section.step:,} or the nearest evaluation before: {named}"


def grids(section: Section, *, pairs_per_task: bool = False) -> list[TextTable]:
    """Aggregates, means a task, success rates where there are any and, of two algorithms or more, pairs.

    A first column holds labels or tasks' names.
    """
    by_metric: dict[str, list[tuple[float, float, float]]] = {metric: [] for metric in METRICS}
    rows = []
    for algo in section.algos:
        of_algo = section.aggregates[section.aggregates["algo"] == algo]
        own = of_algo.set_index("metric").to_dict("index")
        for metric, found in by_metric.items():
            found.append((own[metric]["estimate"], own[metric]["low"], own[metric]["high"]))
        cells = [interval(*found[-1], digits=3) for found in by_metric.values()]
        rows.append((algo, *cells, str(of_algo["seeds"].iloc[0])))
    title = "Aggregate scores over the tasks (optimality gap: lower is better)"
    best = {
        (row, column)
        for column, (metric, found) in enumerate(by_metric.items(), 1)
        for row in leaders(found, lowest=metric == "Optimality Gap")
    }
    aggregates = TextTable(title, ("algorithm", *METRICS, "seeds"), tuple(rows), best=frozenset(best))
    title = "Mean return of each task over its seeds (n: how many, where it lacks some)"
    means = [_of_tasks(section, section.per_task, "mean", title, digits=1)]
    if not section.success.empty:
        title = "Success rate of each task over its seeds: the share of an evaluation's episodes"
        means.append(_of_tasks(section, section.success, "success", title, digits=2))
    return [aggregates, *means, *_pairs(section, pairs_per_task)]


def _of_tasks(section: Section, values: pd.DataFrame, column: str, title: str, *, digits: int) -> TextTable:
    """A column of `values` with its interval, a row a task and a column an algorithm."""
    lines: list[tuple[str, ...]] = []
    best: set[tuple[int, int]] = set()
    for task, group in values.groupby("task"):
        own = group.set_index("algo").to_dict("index")
        found = [(own[algo][column], own[algo]["low"], own[algo]["high"]) for algo in section.algos]
        cells = []
        for algo, numbers in zip(section.algos, found, strict=True):
            count, text = own[algo]["seeds"], interval(*numbers, digits=digits)
            cells.append(text if count == section.seeds[algo] or not count else f"{text} n={count:.0f}")
        best |= {(len(lines), place + 1) for place in leaders(found)}
        lines.append((str(task), *cells))
    return TextTable(title, ("task", *section.algos), tuple(lines), best=frozenset(best))


def _pairs(section: Section, per_task: bool) -> list[TextTable]:
    """Probabilities of improvement, a row a pair, and if asked for those of each task, a column a pair."""
    if section.improvement.empty:
        return []
    rows = []
    for own in section.improvement.to_dict("records"):
        cell = interval(own["estimate"], own["low"], own["high"], digits=3)
        rows.append((f"{own['algo']} > {own['over']}", cell, str(own["verdict"]), str(own["tasks"])))
    title = "Probability of improvement over the tasks: a run of X scores above one of Y"
    overall = TextTable(title, ("X > Y", "P(X > Y)", "verdict on X", "tasks"), tuple(rows))
    if not per_task:
        return [overall]
    cells = {
        (own["task"], f"{own['algo']} > {own['over']}"): interval(own["estimate"], own["low"], own["high"], digits=2)
        for own in section.improvement_per_task.to_dict("records")
    }
    pairs = [row[0] for row in rows]
    lines = [(task, *(cells.get((task, pair), NOTHING) for pair in pairs)) for task in section.tasks]
    return [overall, TextTable("Probability of improvement on each task", ("task", *pairs), tuple(lines))]


def missing(section: Section) -> TextTable:
    """What is missing, the seeds that miss the same in one row."""
    rows = []
    for (algo, task, status, why), group in section.missing.assign(why=_why(section.missing)).groupby(
        ["algo", "task", "status", "why"]
    ):
        rows.append((str(algo), str(task), ranges(group["seed"]), f"{status}: {why}"))
    known = sum(count for algo, count in section.seeds.items() if algo not in section.published) * len(section.tasks)
    title = f"Missing: {len(section.missing)} of {known} runs" if rows else f"Nothing is missing of {known} runs"
    title = title if known else "Published runs only"
    return TextTable(title, ("algorithm", "task", "seeds", "status"), tuple(rows), numbers=False)


def show(report: Report, console: Console) -> None:
    """Print the report to a terminal."""
    for section in report.sections:
        console.print()
        console.print(Text(section.suite, style="bold"))
        for place, line in enumerate(heading(section, report.reps)):
            console.print(Text(line, style="bold yellow" if place == 0 and not section.comparable else ""))
        for grid in (*grids(section, pairs_per_task=report.pairs_per_task), missing(section)):
            text_table.show(grid, console)
        text_table.show_items("Warnings", section.warnings, console)
    text_table.show_items("Nothing to report", [f"{suite}: {reason}" for suite, reason in report.skipped], console)


def _why(missing: pd.DataFrame) -> list[str]:
    """The reason and, of an error, its last line, which names it."""
    whys = []
    for reason, error in zip(missing["reason"], missing["error"], strict=True):
        last = (str(error).strip().splitlines() or [""])[-1].strip()
        whys.append(f"{reason}; {last}" if last else str(reason))
    return whys
