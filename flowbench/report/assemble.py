"""From runs and evaluations to a Report: the numbers of every suite, the missing runs and the warnings."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pandas as pd

from flowbench import stats
from flowbench.common.errors import UsageError
from flowbench.common.text_table import plural
from flowbench.stats import cautions


@dataclass(frozen=True)
class Section:
    """One suite at one step: the frames of ``flowbench.stats`` and the texts that belong to them.

    ``step`` and ``budgets`` (smallest and largest, of our runs if there are any) are in environment steps.
    ``settings`` are the values that the suite sets differently from the defaults, by algorithm and hyperparameter.
    ``published`` maps the labels of published curves to the format of their files; they are the last of ``algos``.
    ``differences`` are the warnings about unequal runs; ``warnings`` holds all warnings, including these. The JSON of a
    report has all fields but ``table`` and ``differences``.
    """

    suite: str
    step: int
    budgets: tuple[int, int]
    comparable: bool
    note: str
    settings: dict[str, dict[str, list[Any]]]
    algos: tuple[str, ...]
    published: dict[str, str]
    tasks: tuple[str, ...]
    seeds: dict[str, int]
    table: pd.DataFrame
    aggregates: pd.DataFrame
    per_task: pd.DataFrame
    success: pd.DataFrame
    improvement: pd.DataFrame
    improvement_per_task: pd.DataFrame
    profiles: pd.DataFrame
    curves: pd.DataFrame
    missing: pd.DataFrame
    differences: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """One section for each suite, in alphabetical order; ``skipped`` holds (suite, reason) of suites without a report.

    With ``pairs_per_task`` the printed tables have the probabilities of improvement on each task as well. CSV and JSON
    always have them.
    """

    sections: tuple[Section, ...]
    skipped: tuple[tuple[str, str], ...]
    reps: int
    seed: int
    pairs_per_task: bool = False

    def _repr_markdown_(self) -> str:
        """The report as a notebook shows it."""
        from flowbench.report.formats import render

        return render(self, "markdown")


def build(
    runs: pd.DataFrame,
    evals: pd.DataFrame,
    *,
    step: int | None = None,
    reps: int = stats.REPS,
    seed: int = 0,
    pairs_per_task: bool = False,
    strict: bool = False,
) -> Report:
    """The report on each suite in ``runs``, at ``step`` or by default at the common step of the suite.

    Intervals use ``reps`` bootstrap resamples, and the same ``seed`` gives the same intervals. Raises ValueError if
    there are no runs, if no suite has a run that reached the step (the message names the largest step that a run
    reached), if ``reps`` < 1, or if ``strict`` is set and the runs of a suite differ in settings that must be equal.
    """
    if runs.empty:
        raise UsageError("no runs to report: start some with `flowbench run`, or check --results, --suite and --algo")
    runs = stats.on_our_tasks(runs)
    sections: list[Section] = []
    skipped: list[tuple[str, str]] = []
    for suite, mine in runs.groupby("suite"):
        theirs = evals if evals.empty else evals[evals["suite"] == suite]
        left_out: list[str] = []
        if step is None:
            mine, short = stats.full_length(mine)
            left_out = cautions.short(short, theirs)
        reason = _nothing(mine, theirs, step)
        if reason:
            skipped.append((str(suite), "; ".join([reason, *left_out])))
        else:
            sections.append(_section(str(suite), mine, theirs, step, reps, seed, left_out))
    if not sections:
        raise UsageError("; ".join(f"{suite}: {reason}" for suite, reason in skipped))
    unlike = [f"{section.suite}: {'; '.join(section.differences)}" for section in sections if section.differences]
    if strict and unlike:
        raise UsageError(f"--strict: {'; '.join(unlike)}")
    return Report(tuple(sections), tuple(skipped), reps, seed, pairs_per_task)


def drawn(runs: pd.DataFrame, evals: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both frames for learning curves, which go on after the reported step; labels are distinct."""
    runs, evals = stats.distinct_labels(stats.on_our_tasks(runs), stats.on_our_tasks(evals))
    return runs, stats.within_our_budget(runs, evals)


def _nothing(runs: pd.DataFrame, evals: pd.DataFrame, step: int | None) -> str:
    """Why there is no report on one suite, and what to do about it; empty if there is one."""
    statuses = ", ".join(f"{count} {status}" for status, count in sorted(Counter(runs["status"]).items()))
    if evals.empty or evals.merge(runs[stats.RUN], on=stats.RUN).empty:
        number = plural(len(runs), "run")
        return f"no evaluation yet in {number} ({statuses}); continue with `flowbench run`"
    wanted = stats.common_step(runs, evals) if step is None else step
    table = stats.at_step(runs, evals, wanted)
    if table["counts"].any():
        return ""
    largest = int(table["reached"].max())
    if largest < wanted:
        return (
            f"no run has reached step {wanted:,} ({statuses}); the largest step available is {largest:,}: "
            f"use --step {largest}"
        )
    first = int(evals["step"].min())
    if first > wanted:
        return f"no run has an evaluation at or before step {wanted:,}; the first is at {first:,}: use --step {first}"
    why = ", ".join(sorted(set(table["reason"])))
    return f"no run counts at step {wanted:,} ({why}; {statuses}); use another --step"


def _section(
    suite: str,
    runs: pd.DataFrame,
    evals: pd.DataFrame,
    step: int | None,
    reps: int,
    seed: int,
    left_out: list[str],
) -> Section:
    plain = runs
    runs, evals = stats.distinct_labels(runs, evals)
    step = stats.common_step(runs, evals) if step is None else step
    table = stats.at_step(runs, evals, step)
    aggregates = stats.aggregates(table, reps=reps, seed=seed)
    per_task = stats.per_task(table, reps=reps, seed=seed)
    improvement, improvement_per_task = stats.improvement(table, reps=reps, seed=seed)
    differences = cautions.differences(runs, table)
    published = stats.is_published(runs)
    ours = runs if published.all() else runs[~published]
    origins = dict(runs[published].reindex(columns=["algo", "origin"], fill_value="").to_numpy())
    notes = dict.fromkeys(str(note) for note in runs.get("note", ()) if note and not pd.isna(note))
    warnings = [
        *left_out,
        *cautions.labels(plain, runs),
        *cautions.unfinished(table),
        *differences,
        *cautions.mixed(runs, table),
        *cautions.scope(runs),
        *cautions.incomplete(table),
        *cautions.uncommon(improvement, improvement_per_task, sorted(set(table["task"]))),
        *cautions.few(aggregates, per_task),
        *cautions.evaluations(table, step),
        *cautions.survivors(table),
        *cautions.tails(runs, table),
        *cautions.sequential(runs, table),
        *cautions.resamples(reps),
    ]
    return Section(
        suite=suite,
        step=step,
        budgets=(int(ours["steps"].min()), int(ours["steps"].max())),
        comparable=bool(runs["comparable"].all()),
        note="; ".join(notes),
        settings=_settings(runs),
        algos=(*sorted(set(table["algo"]) - set(origins)), *sorted(origins)),
        published=dict(sorted(origins.items())),
        tasks=tuple(sorted(set(table["task"]))),
        seeds={str(algo): int(count) for algo, count in table.groupby("algo")["seed"].nunique().items()},
        table=table,
        aggregates=aggregates if _is_normalised(runs) else aggregates[aggregates["metric"] != "Optimality Gap"],
        per_task=per_task,
        success=stats.success_rates(table, reps=reps, seed=seed),
        improvement=improvement,
        improvement_per_task=improvement_per_task,
        profiles=stats.profiles(table, reps=reps, seed=seed),
        curves=stats.curves(table, evals, step, reps=reps, seed=seed),
        missing=stats.missing(table),
        differences=tuple(differences),
        warnings=tuple(warnings),
    )


def _is_normalised(runs: pd.DataFrame) -> bool:
    """Whether scores are normalised: with the bounds 0 and 1 they are returns, which have no optimality gap."""
    return not {"low", "high"} <= set(runs) or bool(((runs["low"] != 0.0) | (runs["high"] != 1.0)).any())


def _settings(runs: pd.DataFrame) -> dict[str, dict[str, list[Any]]]:
    """What the suite sets differently from the defaults, by algorithm (without variants) and hyperparameter.

    A hyperparameter has several values only if the suite has changed between runs.
    """
    found: dict[str, dict[str, list[Any]]] = {}
    known = [row for row in runs.to_dict("records") if isinstance(row.get("settings"), dict)]
    for row in sorted(known, key=lambda row: str(row["name"])):
        of_algo = found.setdefault(str(row["name"]), {})
        for key, value in row["settings"].items():
            values = of_algo.setdefault(key, [])
            if value not in values:
                values.append(value)
    return found
