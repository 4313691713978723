"""From runs and evaluations to a Report: the numbers of every suite, the missing runs and the warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from flowbench import stats
from flowbench.common.errors import UsageError
from flowbench.common.text_table import plural
from flowbench.report import names
from flowbench.stats import cautions


@dataclass(frozen=True)
class Section:
    """One suite at one step: the frames of ``flowbench.stats`` and the texts that belong to them.

    ``step`` and ``budgets`` (smallest and largest, of our runs if there are any) are in environment steps.
    ``settings`` are the values that the suite sets differently from the defaults, by algorithm and hyperparameter.
    ``algos`` are in the order of the report, and so are the rows of all frames but ``table``. ``labels`` maps display
    names to the names that they replace. With a ``baseline``, only its pairs are in the frames of improvement.
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
    labels: dict[str, str]
    baseline: str | None
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
    always have them. ``labels`` are the display names that were given to ``build``.
    """

    sections: tuple[Section, ...]
    skipped: tuple[tuple[str, str], ...]
    reps: int
    seed: int
    pairs_per_task: bool = False
    labels: tuple[str, ...] = ()

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
    labels: Sequence[str] = (),
    sort: str | None = None,
    given: Sequence[str] = (),
    baseline: str | None = None,
) -> Report:
    """The report on each suite in ``runs``, at ``step`` or by default at the common step of the suite.

    ``labels`` are display names (``names.labelled``), ``sort`` and ``given`` decide the order of the algorithms
    (``names.sort_of``). With a ``baseline``, only its pairs are tested and reported.

    Intervals use ``reps`` bootstrap resamples, and the same ``seed`` gives the same intervals. Raises ValueError if
    there are no runs, if no suite has a run that reached the step (the message names the largest step that a run
    reached), if ``reps`` < 1, or if ``strict`` is set and the runs of a suite differ in settings that must be equal.
    """
    if runs.empty:
        raise UsageError("no runs to report: start some with `flowbench run`, or check --results, --suite and --algo")
    sort = names.sort_of(sort, given)
    runs, evals = names.labelled(stats.on_our_tasks(runs), evals, labels)
    if baseline is not None and not any(names.find(baseline, runs).values()):
        names.one(baseline, runs, "--baseline")  # raises, before anything is computed
    sections: list[Section] = []
    skipped: list[tuple[str, str]] = []
    for suite, mine in runs.groupby("suite"):
        theirs = evals if evals.empty else evals[evals["suite"] == suite]
        left_out: list[str] = []
        if step is None:
            mine, short = stats.full_length(mine)
            left_out = cautions.short(short, theirs)
        reason = _nothing(mine, theirs, step)
        if not reason and baseline is not None and not any(names.find(baseline, mine).values()):
            reason = f"no run of the baseline {baseline!r}"
        if reason:
            skipped.append((str(suite), "; ".join([reason, *left_out])))
        else:
            sections.append(
                _section(
                    str(suite), mine, theirs, step, reps, seed, left_out, sort=sort, given=given, baseline=baseline
                )
            )
    if not sections:
        raise UsageError("; ".join(f"{suite}: {reason}" for suite, reason in skipped))
    unlike = [f"{section.suite}: {'; '.join(section.differences)}" for section in sections if section.differences]
    if strict and unlike:
        raise UsageError(f"--strict: {'; '.join(unlike)}")
    return Report(tuple(sections), tuple(skipped), reps, seed, pairs_per_task, tuple(labels))


def drawn(report: Report, runs: pd.DataFrame, evals: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both frames for learning curves, which go on after the reported step; labels are distinct."""
    runs, evals = names.labelled(stats.on_our_tasks(runs), stats.on_our_tasks(evals), report.labels)
    runs, evals = stats.distinct_labels(runs, evals)
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
    *,
    sort: str,
    given: Sequence[str],
    baseline: str | None,
) -> Section:
    plain = runs
    baseline = None if baseline is None else names.one(baseline, runs, "--baseline")[suite]
    runs, evals = stats.distinct_labels(runs, evals)
    step = stats.common_step(runs, evals) if step is None else step
    table = stats.at_step(runs, evals, step)
    aggregates = stats.aggregates(table, reps=reps, seed=seed)
    per_task = stats.per_task(table, reps=reps, seed=seed)
    published = stats.is_published(runs)
    of_iqm = aggregates[aggregates["metric"] == "IQM"]
    iqm = dict(zip(of_iqm["algo"], of_iqm["estimate"], strict=True))
    algos = names.in_order(runs, iqm, set(runs.loc[published, "algo"]), sort, given)
    improvement, improvement_per_task = (
        stats.oriented(frame, algos, baseline)
        for frame in stats.improvement(table, reps=reps, seed=seed, baseline=baseline)
    )
    differences = cautions.differences(runs, table)
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
    normalised = _is_normalised(runs)
    return Section(
        suite=suite,
        step=step,
        budgets=(int(ours["steps"].min()), int(ours["steps"].max())),
        comparable=bool(runs["comparable"].all()),
        note="; ".join(notes),
        settings=_settings(runs),
        algos=tuple(algos),
        labels=names.replaced(plain),
        baseline=baseline,
        published={algo: str(origins[algo]) for algo in algos if algo in origins},
        tasks=tuple(sorted(set(table["task"]))),
        seeds={algo: int(table.loc[table["algo"] == algo, "seed"].nunique()) for algo in algos},
        table=table,
        aggregates=_sorted(aggregates if normalised else aggregates[aggregates["metric"] != "Optimality Gap"], algos),
        per_task=_sorted(per_task, algos, "task"),
        success=_sorted(stats.success_rates(table, reps=reps, seed=seed), algos, "task"),
        improvement=improvement,
        improvement_per_task=improvement_per_task,
        profiles=_sorted(stats.profiles(table, reps=reps, seed=seed), algos),
        curves=_sorted(stats.curves(table, evals, step, reps=reps, seed=seed), algos),
        missing=_sorted(stats.missing(table), algos),
        differences=tuple(differences),
        warnings=tuple(warnings),
    )


def _sorted(frame: pd.DataFrame, algos: Sequence[str], *before: str) -> pd.DataFrame:
    """The frame with its rows in the order of the algorithms, within each value of the columns ``before``."""
    ranks = {algo: place for place, algo in enumerate(algos)}
    rows = frame.assign(rank=frame["algo"].map(ranks)).sort_values([*before, "rank"], kind="stable", ignore_index=True)
    return rows.drop(columns="rank")


def _is_normalised(runs: pd.DataFrame) -> bool:
    """Whether scores are normalised: with the bounds 0 and 1 they are returns, which have no optimality gap."""
    return not {"low", "high"} <= set(runs) or bool(((runs["low"] != 0.0) | (runs["high"] != 1.0)).any())


def _settings(runs: pd.DataFrame) -> dict[str, dict[str, list[Any]]]:
    """What the suite sets differently from the defaults, by algorithm (without variants) and hyperparameter.

    An algorithm with a single variant has the display name of this variant, if there is one.
    A hyperparameter has several values only if the suite has changed between runs.
    """
    found: dict[str, dict[str, list[Any]]] = {}
    known = [row for row in runs.to_dict("records") if isinstance(row.get("settings"), dict)]
    shown: dict[str, set[str]] = {}
    for row in known:
        shown.setdefault(str(row["name"]), set()).add(str(row["algo"]))
    for row in sorted(known, key=lambda row: str(row["name"])):
        (algo, *others), label = sorted(shown[str(row["name"])]), row.get("label", row["algo"])
        is_renamed = not others and row["algo"] != label
        of_algo = found.setdefault(algo if is_renamed else str(row["name"]), {})
        for key, value in row["settings"].items():
            values = of_algo.setdefault(key, [])
            if value not in values:
                values.append(value)
    return found
