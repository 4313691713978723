"""Two algorithms compared: which is better, on which tasks, and how many seeds would decide the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Console

from flowbench import stats
from flowbench.common.errors import UsageError
from flowbench.common.text_table import TextTable, interval, p_value, plural
from flowbench.report import assemble, document, names, tables
from flowbench.report.assemble import Section
from flowbench.report.document import Part
from flowbench.report.formats import as_json, envelope, records
from flowbench.stats import power, rank_tests

LEFT_OUT = "Not compared"


@dataclass(frozen=True)
class Comparison:
    """``algo`` against ``over`` on one suite: the frames of ``stats.versus``, and the report's section on the two.

    ``in_report`` is the verdict of a report on all algorithms of the suite, which corrects for more pairs: their number
    (``algorithms``), ``tests``, ``p_holm`` and ``verdict``; None if there are no other algorithms.
    """

    algo: str
    over: str
    overall: pd.DataFrame
    per_task: pd.DataFrame
    section: Section
    in_report: dict[str, Any] | None


@dataclass(frozen=True)
class Comparisons:
    """One comparison for each suite; ``skipped`` holds (suite, reason) where the two cannot be compared."""

    of_suites: tuple[Comparison, ...]
    skipped: tuple[tuple[str, str], ...]
    reps: int
    seed: int

    def _repr_markdown_(self) -> str:
        """The comparisons as a notebook shows them."""
        return _markdown(self)


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
    labels: Sequence[str] = (),
) -> Comparisons:
    """Compare two algorithms on every suite that has both, at ``step`` or at the common step of each suite.

    Algorithms are given by label, by a name that has one label only, or as for `flowbench run --algo`. ``labels`` are
    display names (``names.labelled``). Raises UsageError for an unknown or ambiguous name, for the same algorithm
    twice, if no suite has both at that step, and for the reasons of ``assemble.build``.
    """
    runs, evals = names.labelled(runs, evals, labels)
    named = [names.one(text, runs) for text in (algo, over)]
    runs, evals = stats.distinct_labels(runs, evals)
    choices = ", ".join(sorted(set(runs["algo"])))
    pairs = {suite: tuple(of_suites.get(suite) for of_suites in named) for suite in set(runs["suite"])}
    if all(one == other for one, other in pairs.values() if one and other) and any(all(p) for p in pairs.values()):
        raise UsageError(f"{algo!r} cannot be compared with itself (choices: {choices})")
    chosen = [name in pairs[suite] for suite, name in zip(runs["suite"], runs["algo"], strict=True)]
    report = assemble.build(runs[chosen], evals, step=step, reps=reps, seed=seed, strict=strict)
    found, skipped = [], list(report.skipped)
    for section in report.sections:
        one, other = (name or text for name, text in zip(pairs[section.suite], (algo, over), strict=True))
        overall, per_task = stats.versus(section.table, one, other, reps=reps, seed=seed)
        if per_task.empty:
            skipped.append((section.suite, _why_not(section, one, other)))
        else:
            all_pairs = _in_report(runs[runs["suite"] == section.suite], evals, section, (one, other), step, seed)
            found.append(Comparison(one, other, overall, per_task, section, all_pairs))
    if not found:
        raise UsageError("; ".join(f"{suite}: {reason}" for suite, reason in skipped))
    return Comparisons(tuple(found), tuple(skipped), reps, seed)


def _in_report(
    runs: pd.DataFrame, evals: pd.DataFrame, section: Section, pair: tuple[str, str], step: int | None, seed: int
) -> dict[str, Any] | None:
    """The verdict on a pair in a report on all algorithms of the suite, at the same step."""
    runs = stats.on_our_tasks(runs)
    if step is None:
        runs, _ = stats.full_length(runs)
    table = stats.at_step(runs, evals, section.step)
    pairs = stats.both_ways(stats.improvement(table, reps=1, seed=seed)[0])  # no interval is needed
    rows = pairs[(pairs["algo"] == pair[0]) & (pairs["over"] == pair[1])].to_dict("records")
    if not rows or rows[0]["tests"] < 2:  # a report leaves out both, if they train for less than the others
        return None
    (row,) = rows
    return {"algorithms": table["algo"].nunique(), **{key: row[key] for key in ("tests", "p_holm", "verdict")}}


def _why_not(section: Section, algo: str, over: str) -> str:
    left_out = [text for text in section.warnings if text.startswith((f"{algo} is left out", f"{over} is left out"))]
    return "; ".join(left_out) or f"no task on which runs of both {algo} and {over} reached step {section.step:,}"


def verdict(comparison: Comparison) -> list[str]:
    """The result in sentences: on how many tasks, over all tasks, and what is not decided."""
    algo, over, tasks, row = comparison.algo, comparison.over, comparison.per_task, comparison.overall.iloc[0]
    count = tasks["verdict"].value_counts()
    wins, losses, undecided, few = (count.get(kind, 0) for kind in ("better", "worse", "undecided", "too few seeds"))
    outcome = {"better": f"{algo} is better than {over}", "worse": f"{over} is better than {algo}"}
    everywhere = comparison.in_report
    chance = interval(row["estimate"], row["low"], row["high"], digits=3)
    difference = interval(row["difference"], row["difference_low"], row["difference_high"], digits=3)
    return [
        f"{algo} is better on {wins} of {plural(len(tasks), 'task')}, {over} on {losses}; undecided on {undecided}"
        + (f"; too few seeds on {few}." if few else "."),
        f"Over the {plural(row['tasks'], 'task')}: {outcome.get(row['verdict'], row['verdict'])} "
        f"(p {p_value(row['p'], '= ')}). P({algo} > {over}) is {chance}, the difference in IQM {difference}.",
        *(
            [
                f"In a report on all {everywhere['algorithms']} algorithms of this suite, with Holm's correction for "
                f"{everywhere['tests']} pairs: {outcome.get(everywhere['verdict'], everywhere['verdict'])} "
                f"(p {p_value(everywhere['p_holm'], '= ')})."
            ]
            if everywhere
            else []
        ),
        *_too_few(tasks),
        *_needed(comparison),
    ]


def _too_few(tasks: pd.DataFrame) -> list[str]:
    """A sentence if not even the clearest outcome on a task would be decided after the correction."""
    smallest = min(map(rank_tests.least_p, tasks["seeds"], tasks["over_seeds"])) * len(tasks)
    if smallest <= stats.LEVEL:
        return []
    enough = next(n for n in range(2, 100) if rank_tests.least_p(n, n) * len(tasks) <= stats.LEVEL)
    return [
        f"With these seeds no single task of {len(tasks)} can be decided: even if every run of one algorithm scored "
        f"above every run of the other, p would be {p_value(min(1.0, smallest))} after the correction. At least "
        f"{enough} seeds of each are needed."
    ]


def _needed(comparison: Comparison) -> list[str]:
    """How many seeds would decide what is not decided; tasks that need the same number are listed together."""
    where: dict[int, list[str]] = {}
    hopeless, unknown = [], []
    rows = pd.concat([comparison.per_task, comparison.overall.assign(task="all tasks together")])
    rows = rows[~rows["verdict"].isin(stats.DECIDED)]
    fewest = rows[["seeds", "over_seeds"]].min(axis="columns")
    for name, needed, seeds in zip(rows["task"], rows["needed"], fewest, strict=True):
        if seeds < 2:
            unknown.append(str(name))
        elif pd.isna(needed):
            hopeless.append(str(name))
        else:
            where.setdefault(int(needed), []).append(str(name))
    parts = [f"{needed} for {', '.join(those)}" for needed, those in sorted(where.items())]
    parts += [f"more than {power.SEEDS[-1]} for {', '.join(hopeless)}"] if hopeless else []
    sentences = []
    if parts:
        sentences.append(
            f"Estimated number of seeds of each that would decide the rest with a probability of {power.POWER:.0%}, "
            f"if further runs came out like these: {'; '.join(parts)}."
        )
    if unknown:
        sentences.append(f"No such estimate for {', '.join(unknown)}: one seed shows no spread.")
    return sentences


def heading(comparison: Comparison, reps: int) -> list[str]:
    """What is compared and how."""
    section, tasks = comparison.section, comparison.per_task
    return [
        *([] if section.comparable else tables.heading(section, reps)[:1]),
        f"X = {comparison.algo}, Y = {comparison.over}, at step {section.step:,}; "
        f"{tables.seeds(list(tasks['seeds']))} of X, {tables.seeds(list(tasks['over_seeds']))} of Y",
        f"each task: exact Mann-Whitney test, Holm's correction for {plural(len(tasks), 'task')}; over all tasks: "
        f"{tables.TEST}, {tables.correction(section)}; decided if p <= {stats.LEVEL:.2f}; "
        f"{plural(reps, 'bootstrap resample')}",
        *tables.labels(section),
        *tables.settings(section),
    ]


def table(comparison: Comparison) -> TextTable:
    """One row for each task, and one over all tasks."""
    tasks = comparison.per_task
    uneven = tasks["seeds"].nunique() > 1 or tasks["over_seeds"].nunique() > 1
    rows = []
    for row in [*tasks.to_dict("records"), {"task": "all", **comparison.overall.iloc[0]}]:
        chance = interval(row["estimate"], row["low"], row["high"], digits=2)
        difference = interval(row["difference"], row["difference_low"], row["difference_high"], digits=2)
        seeds = [f"{row['seeds']}, {row['over_seeds']}"] if uneven else []
        rows.append((str(row["task"]), str(row["verdict"]), p_value(row["p_holm"]), chance, difference, *seeds))
    header = ("task", "X is", "p", "P(X > Y)", "IQM of X - Y", *(["seeds X, Y"] if uneven else []))
    return TextTable(f"X against Y on each task {tables.BRACKETS}", header, tuple(rows))


def show(comparisons: Comparisons, console: Console) -> None:
    """Print the comparisons to a terminal, the verdict first."""
    document.show(_parts(comparisons), LEFT_OUT, comparisons.skipped, console)


def _parts(comparisons: Comparisons) -> list[Part]:
    return [
        Part(
            comparison.section.suite,
            heading(comparison, comparisons.reps),
            [table(comparison), tables.missing(comparison.section)],
            comparison.section.warnings,
            warning=not comparison.section.comparable,
            verdict=verdict(comparison),
        )
        for comparison in comparisons.of_suites
    ]


def _markdown(comparisons: Comparisons) -> str:
    return document.markdown(_parts(comparisons), LEFT_OUT, comparisons.skipped)


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
            "in_report": comparison.in_report,
            "missing": records(comparison.section.missing),
            "warnings": list(comparison.section.warnings),
        }
        for comparison in comparisons.of_suites
    ]
    return as_json(envelope(suites, comparisons.reps, comparisons.seed, comparisons.skipped))


FORMATS: dict[str, Callable[[Comparisons], str]] = {"markdown": _markdown, "json": _json}
