"""The text of a section: its heading and its tables, the same in a terminal, in Markdown and in LaTeX."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from flowbench.common.text_table import NOTHING, TextTable, interval, p_value, plural, ranges
from flowbench.report.assemble import Section
from flowbench.stats import DECIDED, METRICS, both_ways

BRACKETS = "[95 % stratified bootstrap confidence interval]"
TEST = "permutation test stratified by task"
HIGHER = "Probability that a run of X scores higher than a run of Y"

GAP = "Optimality Gap"
LIST = 6  # algorithms; the pairs of more are a matrix, not a list
SIGNS = {"better": "+", "worse": "-", "undecided": "?", "too few seeds": "?", "no common task": ""}
COLOURS = {"+": "white on #0072B2", "-": "black on #E69F00", "?": "dim"}  # safe for all common colour blindness
LEGEND = "+ better, - worse, ? not decided"


def heading(section: Section, reps: int) -> list[str]:
    """The lines above the tables of a section."""
    return [*facts(section, reps), *labels(section), *settings(section)]


def facts(section: Section, reps: int) -> list[str]:
    """The lines that say what the numbers of a section are; a suite unlike the literature says so first."""
    lines = []
    if not section.comparable:
        lines.append("NOT COMPARABLE WITH THE LITERATURE" + (f": {section.note}" if section.note else ""))
    elif section.note:
        lines.append(section.note)
    low, high = section.budgets
    budget = f"{high:,}" if low == high else f"{low:,} to {high:,}"
    ours = [algo for algo in section.algos if algo not in section.published] or section.algos
    sizes = f"{plural(len(ours), 'algorithm')}, {plural(len(section.tasks), 'task')}"
    lines.append(
        f"at step {section.step:,} of {budget} (environment steps); "
        f"{sizes}, {seeds([section.seeds[algo] for algo in ours])}"
    )
    if section.published:
        lines.append(references(section))
    scores = "normalised scores" if GAP in metrics(section) else "scores are returns, not normalised"
    return [*lines, f"{scores}; {plural(reps, 'bootstrap resample')}"]


def labels(section: Section) -> list[str]:
    """The line that says which names are display names; nothing if there are none."""
    listed = "; ".join(f"{algo} is {label}" for algo, label in section.labels.items())
    return [f"Names: {listed}"] if listed else []


def settings(section: Section) -> list[str]:
    """The line with the values that the suite sets differently from the defaults; nothing if there are none."""
    if not any(section.settings.values()):
        return []
    named = {
        algo: [f"{key} {' or '.join(map(_setting, values))}" for key, values in own.items()]
        for algo, own in section.settings.items()
    }
    listed = "; ".join(f"{algo}: {', '.join(own) or 'none'}" for algo, own in named.items())
    return [f"Settings of this suite that differ from the defaults: {listed}"]


def _setting(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def seeds(counts: list[int]) -> str:
    """``5 seeds`` or ``4 to 5 seeds``."""
    low, high = min(counts), max(counts)
    return plural(low, "seed") if low == high else f"{low} to {high} seeds"


def references(section: Section) -> str:
    """The line that names the published curves and the step at which they are read."""
    named = "; ".join(
        f"{', '.join(algo for algo, its in section.published.items() if its == origin)} from {origin} files"
        for origin in sorted(set(section.published.values()))
    )
    return f"published curves for reference, at step {section.step:,} or the last evaluation before it: {named}"


def correction(section: Section) -> str:
    """``Holm's correction for 6 pairs``: what the verdicts on pairs over the tasks are corrected for."""
    compared = section.improvement[section.improvement["tasks"] > 0]
    published = compared["algo"].isin(section.published) | compared["over"].isin(section.published)
    sizes = [plural(int(tests), "pair") for tests in compared.loc[~published, "tests"].head(1)]
    sizes += [
        f"{plural(int(tests), 'pair')} with published curves" for tests in compared.loc[published, "tests"].head(1)
    ]
    return f"Holm's correction for {' and separately for '.join(sizes) or 'no pair'}"


def metrics(section: Section) -> list[str]:
    """The aggregate scores of a section, in order; returns have no optimality gap."""
    return [metric for metric in METRICS if metric in set(section.aggregates["metric"])]


def tables(section: Section, *, pairs_per_task: bool = False) -> list[TextTable]:
    """Aggregates, means of each task, success rates if there are any, and pairs if there are two algorithms or more."""
    own = section.aggregates.set_index(["algo", "metric"])
    rows = []
    for algo in section.algos:
        cells = [
            interval(*own.loc[(algo, metric), ["estimate", "low", "high"]], digits=3) for metric in metrics(section)
        ]
        rows.append((algo, *cells, str(own.loc[(algo, "IQM"), "seeds"])))
    title = f"Aggregate scores over the tasks {BRACKETS}"
    title += "; optimality gap: lower is better" if GAP in metrics(section) else ""
    iqm = own.xs("IQM", level="metric")["estimate"]
    leading = best({str(algo): value for algo, value in iqm.items()}, section.improvement, section.baseline)
    marked = frozenset((row, 1) for row, algo in enumerate(section.algos) if algo in leading)
    aggregates = TextTable(title, ("algorithm", *metrics(section), "seeds"), tuple(rows), best=marked)
    title = f"Mean return of each task over its seeds {BRACKETS}; n: number of seeds, where some are missing"
    means = [_of_tasks(section, section.per_task, "mean", title, digits=1, tested=True)]
    if not section.success.empty:
        title = f"Success rate of each task over its seeds {BRACKETS}: the share of successful evaluation episodes"
        means.append(_of_tasks(section, section.success, "success", title, digits=2))
    return [aggregates, *means, *_pairs(section, pairs_per_task)]


def best(estimates: Mapping[str, float], pairs: pd.DataFrame, baseline: str | None = None) -> set[str]:
    """The algorithm with the highest estimate and those that the test does not find worse than it.

    Only algorithms with enough seeds for a verdict are considered; without any verdict the result is empty. With a
    ``baseline``, no others are tested: the result is the algorithms that are better than it.
    """
    if baseline is not None:
        return set(pairs.loc[(pairs["over"] == baseline) & (pairs["verdict"] == "better"), "algo"])
    tested = both_ways(pairs[pairs["verdict"].isin([*DECIDED, "undecided"])])
    known = [algo for algo in sorted(set(tested["algo"])) if not math.isnan(estimates[algo])]
    if not known:
        return set()
    highest = max(known, key=lambda algo: estimates[algo])
    others = tested[(tested["over"] == highest) & (tested["verdict"] != "worse")]
    return {highest} | (set(others["algo"]) & set(known))


def _of_tasks(
    section: Section, values: pd.DataFrame, column: str, title: str, *, digits: int, tested: bool = False
) -> TextTable:
    """A column of `values` with its interval: a row for each task, a column for each algorithm."""
    lines: list[tuple[str, ...]] = []
    marked: set[tuple[int, int]] = set()
    for task, group in values.groupby("task"):
        own = group.set_index("algo").to_dict("index")
        cells = []
        for algo in section.algos:
            count, text = own[algo]["seeds"], interval(*(own[algo][n] for n in (column, "low", "high")), digits=digits)
            cells.append(text if count == section.seeds[algo] or not count else f"{text} n={count:.0f}")
        if tested:
            pairs = section.improvement_per_task[section.improvement_per_task["task"] == task]
            leading = best({str(algo): row[column] for algo, row in own.items()}, pairs, section.baseline)
            marked |= {(len(lines), place) for place, algo in enumerate(section.algos, 1) if algo in leading}
        lines.append((str(task), *cells))
    return TextTable(title, ("task", *section.algos), tuple(lines), best=frozenset(marked), across="algorithm")


def _pairs(section: Section, per_task: bool) -> list[TextTable]:
    """Probabilities of improvement and verdicts: a row for each pair; if asked for, on each task: a column for each.

    The pairs of many algorithms are a matrix.
    """
    if section.improvement.empty:
        return []
    rows = []
    for own in section.improvement.to_dict("records"):
        cell = interval(own["estimate"], own["low"], own["high"], digits=3)
        p = p_value(own["p_holm"]) if own["tests"] else NOTHING
        rows.append((f"{own['algo']} > {own['over']}", cell, p, str(own["verdict"]), str(own["tasks"])))
    against = f"; Y is the baseline {section.baseline}" if section.baseline else ""
    title = f"{HIGHER}, over the tasks {BRACKETS}{against}; p: {TEST}, {correction(section)}"
    overall = (
        matrix(section)
        if is_matrix(section)
        else TextTable(title, ("X > Y", "P(X > Y)", "p", "X is", "tasks"), tuple(rows))
    )
    if not per_task:
        return [overall]
    cells = {
        (own["task"], f"{own['algo']} > {own['over']}"): interval(own["estimate"], own["low"], own["high"], digits=2)
        for own in section.improvement_per_task.to_dict("records")
    }
    pairs = [row[0] for row in rows]
    lines = [(task, *(cells.get((task, pair), NOTHING) for pair in pairs)) for task in section.tasks]
    return [overall, TextTable(f"{HIGHER}, on each task {BRACKETS}", ("task", *pairs), tuple(lines), across="X > Y")]


def is_matrix(section: Section) -> bool:
    """Whether the pairs are shown as a matrix, because a list would be too long."""
    return len(section.algos) > LIST and section.baseline is None


def matrix(section: Section) -> TextTable:
    """P(row > column) in percent with the sign of the verdict; the columns have the numbers of the rows."""
    rows, colours = [], {}
    cells = {(pair["algo"], pair["over"]): pair for pair in both_ways(section.improvement).to_dict("records")}
    for row, algo in enumerate(section.algos):
        texts = []
        for column, over in enumerate(section.algos, 1):
            pair = cells.get((algo, over), {"verdict": "no common task"})
            sign = SIGNS[pair["verdict"]]
            texts.append(f"{100 * pair['estimate']:.0f}{sign}" if sign else "")
            colours[row, column] = COLOURS.get(sign, "")
        rows.append((f"{row + 1} {algo}", *texts))
    title = (
        "Probability in percent that a run of the row scores higher than a run of the column, over the tasks. The row "
        f"is {LEGEND}: {TEST}, {correction(section)}; CSV and JSON have intervals and p"
    )
    header = ("X > Y", *(str(place) for place, _ in enumerate(section.algos, 1)))
    return TextTable(title, header, tuple(rows), colours=colours)


def missing(section: Section) -> TextTable:
    """The missing runs; seeds with the same reason share a row."""
    rows = []
    for (algo, task, status, why), group in section.missing.assign(why=_why(section.missing)).groupby(
        ["algo", "task", "status", "why"], sort=False
    ):
        rows.append((str(algo), str(task), ranges(group["seed"]), f"{status}: {why}"))
    wanted = sum(count for algo, count in section.seeds.items() if algo not in section.published) * len(section.tasks)
    title = f"Missing: {len(section.missing) or 'none'} of {plural(wanted, 'run')}" if wanted else "Published runs only"
    return TextTable(title, ("algorithm", "task", "seeds", "status"), tuple(rows), numbers=False)


def _why(missing: pd.DataFrame) -> list[str]:
    """The reason and the last line of the error, which names it."""
    whys = []
    for reason, error in zip(missing["reason"], missing["error"], strict=True):
        last = (str(error).strip().splitlines() or [""])[-1].strip()
        whys.append(f"{reason}; {last}" if last else str(reason))
    return whys
