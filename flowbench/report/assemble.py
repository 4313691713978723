"""From runs and evaluations to a Report: the numbers of every suite, what is missing, and what to beware of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from flowbench import stats
from flowbench.errors import UsageError

FEW = 3  # fewer seeds than this get a warning
ROUGH = 1000  # so do fewer resamples


@dataclass(frozen=True)
class Section:
    """One suite at one step: frames as ``flowbench.stats`` makes them, and the texts that belong to them.

    ``step`` and ``budgets`` (smallest, largest) are in environment steps. ``warnings`` say what the numbers do
    not: few or unequal seeds, diverged or older evaluations, labels that stand for several configs, pairs of
    algorithms that lack a common task.
    """

    suite: str
    step: int
    budgets: tuple[int, int]
    comparable: bool
    note: str
    algos: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: dict[str, int]
    aggregates: pd.DataFrame
    per_task: pd.DataFrame
    improvement: pd.DataFrame
    improvement_per_task: pd.DataFrame
    missing: pd.DataFrame
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """A section a suite, in alphabetical order; ``skipped`` holds (suite, why) of those with nothing to report.

    ``pairs_per_task`` puts the probabilities of improvement on each task into the printed tables too; CSV and JSON
    always hold them.
    """

    sections: tuple[Section, ...]
    skipped: tuple[tuple[str, str], ...]
    reps: int
    seed: int
    pairs_per_task: bool = False


def build(
    runs: pd.DataFrame,
    evals: pd.DataFrame,
    *,
    step: int | None = None,
    reps: int = stats.REPS,
    seed: int = 0,
    pairs_per_task: bool = False,
) -> Report:
    """The report on all suites in ``runs``, each on its own, at ``step`` or else at each suite's common step.

    ``reps`` resamples make an interval; ``seed`` makes it repeatable. Raises ValueError if there are no runs,
    if no suite has a run that reached the step (naming the largest that one reached), or if ``reps`` < 1.
    """
    if runs.empty:
        raise UsageError("no runs to report: start some with `flowbench run`, or check --results, --suite and --algo")
    sections: list[Section] = []
    skipped: list[tuple[str, str]] = []
    for suite, mine in runs.groupby("suite"):
        theirs = evals if evals.empty else evals[evals["suite"] == suite]
        left_out: list[str] = []
        if step is None:
            mine, left_out = _of_full_length(mine)
        reason = _nothing(mine, theirs, step)
        if reason:
            skipped.append((str(suite), reason))
        else:
            sections.append(_section(str(suite), mine, theirs, step, reps, seed, left_out))
    if not sections:
        raise UsageError("; ".join(f"{suite}: {reason}" for suite, reason in skipped))
    return Report(tuple(sections), tuple(skipped), reps, seed, pairs_per_task)


def _of_full_length(runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The runs that train for as long as their suite says, and a line on each algorithm that does not.

    One short trial run must not draw the comparison of a whole grid to its few steps. With nothing but short runs,
    they are the grid.
    """
    if "suite_steps" not in runs:
        return runs, []
    full = runs["steps"] >= runs["suite_steps"]
    if full.all() or not full.any():
        return runs, []
    texts = []
    for (algo, steps), _ in runs[~full].groupby(["algo", "steps"]):
        texts.append(f"{algo} is left out: it trains for {steps:,} steps only (--step {steps} compares there)")
    return runs[full], texts


def _nothing(runs: pd.DataFrame, evals: pd.DataFrame, step: int | None) -> str:
    """Why one suite has nothing to report, and what to do about it; empty if it has something."""
    statuses = ", ".join(f"{count} {status}" for status, count in sorted(Counter(runs["status"]).items()))
    if evals.empty or evals.merge(runs[stats.RUN], on=stats.RUN).empty:
        return f"no evaluation yet in {_count(len(runs), 'run')} ({statuses}): let `flowbench run` get to one first"
    wanted = stats.common_step(runs, evals) if step is None else step
    table = stats.at_step(runs, evals, wanted)
    if table["counts"].any():
        return ""
    largest = int(table["reached"].max())
    if largest < wanted:
        return (
            f"no run has reached step {wanted:,} ({statuses}); the largest step available is {largest:,}: "
            f"ask for it with --step {largest}"
        )
    first = int(evals["step"].min())
    if first > wanted:
        return f"no run has an evaluation at or before step {wanted:,}; the first is at {first:,}: try --step {first}"
    why = ", ".join(sorted(set(table["reason"])))
    return f"no run counts at step {wanted:,} ({why}; {statuses}): try another --step"


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
    notes = dict.fromkeys(str(note) for note in runs.get("note", ()) if note and not pd.isna(note))
    warnings = [
        *left_out,
        *_labels(plain, runs),
        *_unfinished(table),
        *_mixed(runs, table),
        *_normalising(runs),
        *_scope(runs),
        *_incomplete(table),
        *_uncommon(improvement, improvement_per_task, sorted(set(table["task"]))),
        *_few(aggregates, per_task),
        *_evaluations(table, step),
    ]
    if reps < ROUGH:
        warnings.append(f"{_count(reps, 'resample')}: the intervals are rough; {stats.REPS:,} are customary here")
    return Section(
        suite=suite,
        step=step,
        budgets=(int(runs["steps"].min()), int(runs["steps"].max())),
        comparable=bool(runs["comparable"].all()),
        note="; ".join(notes),
        algos=tuple(sorted(set(table["algo"]))),
        tasks=tuple(sorted(set(table["task"]))),
        seeds={str(algo): int(count) for algo, count in table.groupby("algo")["seed"].nunique().items()},
        aggregates=aggregates,
        per_task=per_task,
        improvement=improvement,
        improvement_per_task=improvement_per_task,
        missing=stats.missing(table),
        warnings=tuple(warnings),
    )


def _labels(plain: pd.DataFrame, runs: pd.DataFrame) -> list[str]:
    """Labels that had to be told apart."""
    names = pd.DataFrame({"old": plain["algo"], "new": runs["algo"]}).drop_duplicates()
    return [
        f"{old} stands for {len(group)} different configurations, kept apart as {', '.join(sorted(group['new']))}"
        for old, group in names.groupby("old")
        if len(group) > 1
    ]


def _unfinished(table: pd.DataFrame) -> list[str]:
    """Runs that reached the step and count, but are not done."""
    rows = table[table["counts"] & (table["status"] != "done")]
    return [
        f"{row.algo}, {row.task}, seed {row.seed}: {row.status}, but it had reached the step and counts"
        for row in rows.itertuples()
    ]


def _mixed(runs: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Algorithms whose runs differ in software or device, which no config tells."""
    if "software" not in runs:
        return []
    counted = runs.merge(table.loc[table["counts"], stats.RUN], on=stats.RUN)
    texts = []
    for algo, group in counted[counted["software"] != ""].groupby("algo"):
        kinds = sorted(set(group["software"]))
        if len(kinds) > 1:
            texts.append(f"{algo}: its runs differ in software or device: {' | '.join(kinds)}")
    return texts


def _normalising(runs: pd.DataFrame) -> list[str]:
    """Tasks whose score bounds changed from run to run, so that their scores do not compare."""
    bounds = runs[["task", "low", "high"]].drop_duplicates().groupby("task").size()
    return [f"{task}: its runs were normalised by different bounds" for task in bounds.index[bounds > 1]]


def _scope(runs: pd.DataFrame) -> list[str]:
    """A suite that declares more tasks than there are runs of."""
    if "tasks" not in runs or runs["tasks"].isna().all():
        return []
    declared, here = int(runs["tasks"].max()), runs["task"].nunique()
    return [f"{here} of the suite's {_count(declared, 'task')}: the aggregates cover these"] if here < declared else []


def _incomplete(table: pd.DataFrame) -> list[str]:
    """Algorithms whose aggregate leaves out seeds, or that have none."""
    texts = []
    tasks = table["task"].nunique()
    for algo, seeds in stats.complete_seeds(table).items():
        known = table.loc[table["algo"] == algo, "seed"].nunique()
        if not seeds:
            texts.append(f"{algo}: no aggregate, because no seed has all {_count(tasks, 'task')}")
        elif len(seeds) < known:
            texts.append(
                f"{algo}: the aggregate uses {len(seeds)} of {known} seeds ({ranges(seeds)}), "
                f"those that all {_count(tasks, 'task')} have"
            )
    return texts


def _uncommon(improvement: pd.DataFrame, per_task: pd.DataFrame, tasks: list[str]) -> list[str]:
    """Pairs of algorithms that are compared on some of the tasks only, those that lack the same together."""
    pairs: dict[tuple[str, ...], list[str]] = {}
    for row in improvement[improvement["tasks"] < len(tasks)].itertuples():
        own = per_task[(per_task["algo"] == row.algo) & (per_task["over"] == row.over)]
        pairs.setdefault(tuple(sorted(set(tasks) - set(own["task"]))), []).append(f"{row.algo} > {row.over}")
    return [
        f"{', '.join(names)}: over {len(tasks) - len(lacked)} of {_count(len(tasks), 'task')}, those that both have "
        f"(without {', '.join(lacked)})"
        if len(lacked) < len(tasks)
        else f"{', '.join(names)}: no probability of improvement, because there is no task that both have"
        for lacked, names in pairs.items()
    ]


def _few(aggregates: pd.DataFrame, per_task: pd.DataFrame) -> list[str]:
    """Algorithms with too few seeds for their intervals to mean much, those of the same number together."""
    complete = dict(zip(aggregates["algo"], aggregates["seeds"], strict=True))
    fewest = per_task[per_task["seeds"] > 0].groupby("algo")["seeds"].min()
    groups: dict[tuple[int, str], list[str]] = {}
    for algo, least in zip(fewest.index.astype(str), fewest, strict=True):
        where = "" if complete[algo] else " on some tasks"
        count = int(complete[algo] or least)
        if count < FEW:
            groups.setdefault((count, where), []).append(algo)
    effect = {1: "there is no interval", 2: "the interval says little"}
    return [
        f"{_count(count, 'seed')}{where}: {effect[count]}; 5 or more are customary ({', '.join(algos)})"
        for (count, where), algos in sorted(groups.items())
    ]


def _evaluations(table: pd.DataFrame, step: int) -> list[str]:
    """Runs that diverged, and algorithms whose evaluations are older than the step."""
    texts = [
        f"{row.algo}, {row.task}, seed {row.seed}: not finite at step {step:,}; "
        f"its last finite evaluation, at step {row.step:,}, counts"
        for row in table[table["diverged"]].itertuples()
    ]
    for algo, group in table[table["counts"] & ~table["diverged"]].groupby("algo"):
        low, high = int(group["step"].min()), int(group["step"].max())
        if low < step:
            at = f"step {low:,}" if low == high else f"steps {low:,} to {high:,}"
            texts.append(f"{algo}: evaluated at {at}, the last at or before {step:,}")
    return texts


def ranges(numbers: Iterable[int]) -> str:
    """``0-2, 5`` for 0, 1, 2, 5."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
