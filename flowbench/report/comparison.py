"""Two algorithms side by side: which is better, on which tasks, and what it would take to know the rest."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from rich.console import Console
from rich.text import Text

from flowbench import stats
from flowbench.common import text_table
from flowbench.common.errors import UsageError, unknown
from flowbench.common.text_table import TextTable, escaped, interval, markdown, markdown_items, p_value, plural
from flowbench.report import assemble, tables
from flowbench.report.assemble import Section
from flowbench.report.formats import SCHEMA, records
from flowbench.stats import power, rank_tests


@dataclass(frozen=True)
class Comparison:
    """``algo`` against ``over`` on one suite: the frames of ``stats.versus``, and the report's section on the two."""

    algo: str
    over: str
    overall: pd.DataFrame
    per_task: pd.DataFrame
    section: Section


@dataclass(frozen=True)
class Comparisons:
    """A comparison a suite; ``skipped`` holds (suite, why) of those where the two cannot be compared."""

    of_suites: tuple[Comparison, ...]
    skipped: tuple[tuple[str, str], ...]
    reps: int
    seed: int


def compare(
    runs: pd.DataFrame,
    evals: pd.DataFrame,
    algo: str,
    over: str,
    *,
    step: int | None = None,
    reps: int = stats.REPS,
    seed: int = 0,
    strict: bool = False,
) -> Comparisons:
    """Compare two algorithms in every suite that has both, at ``step`` or each suite's common step.

    They are named by their labels, or by a name that stands for one label only. Raises UsageError for a name that is
    not there or stands for several, for one label named twice, if no suite has both at that step, and as
    ``assemble.build``.
    """
    runs, evals = stats.distinct_labels(runs, evals)
    labels = sorted(set(runs["algo"]))
    algo, over = _label(algo, labels), _label(over, labels)
    if algo == over:
        raise UsageError(f"{algo!r} cannot be compared with itself (choices: {', '.join(labels)})")
    runs = runs[runs["algo"].isin([algo, over])]
    report = assemble.build(runs, evals, step=step, reps=reps, seed=seed, strict=strict)
    found, skipped = [], list(report.skipped)
    for section in report.sections:
        overall, per_task = stats.versus(section.table, algo, over, reps=reps, seed=seed)
        if per_task.empty:
            skipped.append((section.suite, _why_not(section, algo, over)))
        else:
            found.append(Comparison(algo, over, overall, per_task, section))
    if not found:
        raise UsageError("; ".join(f"{suite}: {why}" for suite, why in skipped))
    return Comparisons(tuple(found), tuple(skipped), reps, seed)


def _label(name: str, labels: list[str]) -> str:
    """The label that is meant: the one itself, or the only variant of the algorithm of that name."""
    if name in labels:
        return name
    variants = [label for label in labels if re.split(r"[\[#]", label)[0] == name]
    if len(variants) > 1:
        raise UsageError(f"{name!r} stands for several: choose one of {', '.join(variants)}")
    if not variants:
        raise unknown("algorithm in these results", name, labels)
    return variants[0]


def _why_not(section: Section, algo: str, over: str) -> str:
    left_out = [text for text in section.warnings if text.startswith((f"{algo} is left out", f"{over} is left out"))]
    return "; ".join(left_out) or f"no task on which runs of both {algo} and {over} reached step {section.step:,}"


def verdict(comparison: Comparison) -> list[str]:
    """What follows from the numbers, in sentences: on how many tasks, over all of them, and what is still open."""
    algo, over, tasks = comparison.algo, comparison.over, comparison.per_task
    wins, losses, undecided = ((tasks["verdict"] == kind).sum() for kind in ("better", "worse", "undecided"))
    said = [
        f"{algo} is better on {wins} of {plural(len(tasks), 'task')}, {over} on {losses}; undecided on {undecided}.",
        _over_all(comparison),
    ]
    return [*said, *_too_few(tasks), *_needed(comparison)]


def _over_all(comparison: Comparison) -> str:
    algo, over, row = comparison.algo, comparison.over, comparison.overall.iloc[0]
    outcome = {
        "better": f"{algo} is better than {over}",
        "worse": f"{over} is better than {algo}",
        "undecided": "undecided",
    }[row["verdict"]]
    chance = interval(row["estimate"], row["low"], row["high"], digits=3)
    difference = interval(row["difference"], row["difference_low"], row["difference_high"], digits=3)
    p = p_value(row["p"], "= ")
    return (
        f"Over the {plural(row['tasks'], 'task')}: {outcome} (p {p}). P({algo} > {over}) is {chance}, "
        f"the difference in IQM {difference}."
    )


def _too_few(tasks: pd.DataFrame) -> list[str]:
    """Said where not even the clearest outcome would be decided after the correction."""
    smallest = min(map(rank_tests.least_p, tasks["seeds"], tasks["over_seeds"])) * len(tasks)
    if smallest <= stats.LEVEL:
        return []
    enough = next(n for n in range(2, 100) if rank_tests.least_p(n, n) * len(tasks) <= stats.LEVEL)
    return [
        f"So few seeds can decide no task of {len(tasks)}: were every run of one above every run of the other, p would "
        f"be {p_value(min(1.0, smallest))} after the correction. It takes {enough} seeds of each at least."
    ]


def _needed(comparison: Comparison) -> list[str]:
    """How many seeds would decide what is open, tasks that need the same number together."""
    where: dict[int, list[str]] = {}
    hopeless, unknown = [], []
    rows = pd.concat([comparison.per_task, comparison.overall.assign(task="all tasks together")])
    undecided = rows[rows["verdict"] == "undecided"]
    fewest = undecided[["seeds", "over_seeds"]].min(axis="columns")
    for name, needed, seeds in zip(undecided["task"], undecided["needed"], fewest, strict=True):
        if seeds < 2:
            unknown.append(str(name))
        elif pd.isna(needed):
            hopeless.append(str(name))
        else:
            where.setdefault(int(needed), []).append(str(name))
    parts = [f"{needed} for {', '.join(names)}" for needed, names in sorted(where.items())]
    parts += [f"more than {power.SEEDS[-1]} for {', '.join(hopeless)}"] if hopeless else []
    said = []
    if parts:
        said.append(
            f"Seeds of each, in all, that would decide what is open in four cases of five if more runs came out as "
            f"these (an estimate): {'; '.join(parts)}."
        )
    if unknown:
        said.append(f"How many seeds would decide {', '.join(unknown)} nobody can tell: one seed shows no spread.")
    return said


def heading(comparison: Comparison, reps: int) -> list[str]:
    """What is compared and how."""
    section, tasks = comparison.section, comparison.per_task
    said = [
        f"X = {comparison.algo}, Y = {comparison.over}, at step {section.step:,}; "
        f"{_seeds(tasks['seeds'])} of X, {_seeds(tasks['over_seeds'])} of Y"
    ]
    if not section.comparable:
        said.insert(0, tables.heading(section, reps)[0])
    said.append(
        "each task: exact Mann-Whitney test, Holm's correction over the tasks; all together: permutation test "
        f"stratified by task; decided at p <= {stats.LEVEL:.2f}; 95 % stratified bootstrap intervals, "
        f"{reps:,} resamples"
    )
    return said


def grid(comparison: Comparison) -> TextTable:
    """A row a task, and one over all of them."""
    tasks = comparison.per_task
    uneven = tasks["seeds"].nunique() > 1 or tasks["over_seeds"].nunique() > 1
    rows = []
    for row in [*tasks.to_dict("records"), {"task": "all", **comparison.overall.iloc[0], "p_holm": None}]:
        p = row["p"] if row["p_holm"] is None else row["p_holm"]
        chance = interval(row["estimate"], row["low"], row["high"], digits=2)
        difference = interval(row["difference"], row["difference_low"], row["difference_high"], digits=2)
        seeds = [f"{row['seeds']}, {row['over_seeds']}"] if uneven else []
        rows.append((str(row["task"]), str(row["verdict"]), p_value(p), chance, difference, *seeds))
    header = ("task", "X is", "p", "P(X > Y)", "IQM of X - Y", *(["seeds"] if uneven else []))
    return TextTable("X against Y on each task", header, tuple(rows))


def show(comparisons: Comparisons, console: Console) -> None:
    """Print the comparisons to a terminal, the verdict first."""
    for comparison in comparisons.of_suites:
        section = comparison.section
        console.print()
        console.print(Text(section.suite, style="bold"))
        for line in heading(comparison, comparisons.reps):
            console.print(Text(line))
        console.print()
        for place, line in enumerate(verdict(comparison)):
            console.print(Text(line, style="bold" if place < 2 else ""))
        text_table.show(grid(comparison), console)
        text_table.show(tables.missing(section), console)
        text_table.show_items("Warnings", section.warnings, console)
    text_table.show_items("Not compared", [f"{suite}: {why}" for suite, why in comparisons.skipped], console)


def _markdown(comparisons: Comparisons) -> str:
    blocks = []
    for comparison in comparisons.of_suites:
        section = comparison.section
        blocks.append(f"## {escaped(section.suite)}")
        blocks += map(escaped, heading(comparison, comparisons.reps))
        blocks.append("\n".join(f"- {escaped(line)}" for line in verdict(comparison)))
        blocks += [markdown(grid(comparison)), markdown(tables.missing(section))]
        blocks += markdown_items("### Warnings", section.warnings)
    blocks += markdown_items("## Not compared", [f"{suite}: {why}" for suite, why in comparisons.skipped])
    return "\n\n".join(blocks) + "\n"


def _json(comparisons: Comparisons) -> str:
    suites = [
        {
            "suite": comparison.section.suite,
            "step": comparison.section.step,
            "comparable": comparison.section.comparable,
            "algo": comparison.algo,
            "over": comparison.over,
            "verdict": verdict(comparison),
            "overall": records(comparison.overall)[0],
            "per_task": records(comparison.per_task),
            "missing": records(comparison.section.missing),
            "warnings": list(comparison.section.warnings),
        }
        for comparison in comparisons.of_suites
    ]
    content = {
        "schema": SCHEMA,
        "confidence": stats.CONFIDENCE,
        "reps": comparisons.reps,
        "seed": comparisons.seed,
        "suites": suites,
        "skipped": [{"suite": suite, "reason": why} for suite, why in comparisons.skipped],
    }
    return json.dumps(content, allow_nan=False, ensure_ascii=False, indent=2) + "\n"


def _seeds(counts: pd.Series[int]) -> str:
    low, high = int(counts.min()), int(counts.max())
    return plural(low, "seed") if low == high else f"{low} to {high} seeds"


FORMATS: dict[str, Callable[[Comparisons], str]] = {"markdown": _markdown, "json": _json}
