"""Warnings about the numbers of a report: missing runs, unequal runs, unreliable intervals. One line each."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from flowbench.common.text_table import plural, ranges
from flowbench.stats.bootstrap import REPS
from flowbench.stats.published import is_published
from flowbench.stats.rank_tests import FEWEST
from flowbench.stats.scores import RUN, complete_seeds, ended_diverged

ROUGH = 1000  # with fewer bootstrap resamples there is a warning
# What must be the same for a fair comparison: the column, and its name in a message.
SAME = {
    "steps": "number of training steps",
    "every": "number of steps between evaluations",
    "episodes": "number of episodes per evaluation",
    "action_repeat": "action repeat",
    "env_args": "arguments of the environment",
    "device": "device",
    "precision": "precision of matrix products",
    "mujoco": "version of mujoco",
    "dm_control": "version of dm_control",
}


def short(runs: pd.DataFrame, evals: pd.DataFrame) -> list[str]:
    """Algorithms whose runs are excluded because they train for too few steps, and how to include them."""
    evaluated = set() if evals.empty else set(evals[RUN].itertuples(index=False, name=None))
    texts = []
    for (algo, steps), group in runs.groupby(["algo", "steps"]):
        there = evaluated & set(group[RUN].itertuples(index=False, name=None))
        how = f" (include it with --step {steps})" if there else ""
        texts.append(f"{algo} is left out: it trains for {steps:,} steps only{how}")
    return texts


def labels(plain: pd.DataFrame, runs: pd.DataFrame) -> list[str]:
    """Labels that stand for several configurations."""
    names = pd.DataFrame({"old": plain["algo"], "new": runs["algo"]}).drop_duplicates()
    return [
        f"{old} stands for {len(group)} different configurations, shown separately as {', '.join(sorted(group['new']))}"
        for old, group in names.groupby("old")
        if len(group) > 1
    ]


def unfinished(table: pd.DataFrame) -> list[str]:
    """Runs that count because they reached the step, but are not done. ``evaluations`` names those that diverged."""
    rows = table[table["counts"] & ~table["diverged"] & (table["status"] != "done")]
    return [
        f"{row.algo}, {row.task}, seed {row.seed}: {row.status}, but it counts because it had reached the step"
        for row in rows.itertuples()
    ]


def mixed(runs: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Algorithms whose own runs differ in software, device or threads, which are not part of a configuration."""
    if "software" not in runs:
        return []
    counted = runs.merge(table.loc[table["counts"], RUN], on=RUN)
    texts = []
    for algo, group in counted[counted["software"].map(bool)].groupby("algo"):
        kinds = sorted(set(group["software"]))
        if len(kinds) > 1:
            texts.append(f"{algo}: its runs differ in software, device or threads: {' | '.join(_differing(kinds))}")
    return texts


def _differing(kinds: Sequence[tuple[str, ...]]) -> list[str]:
    """Each of several runs' training segments as text, without the parts that all segments share.

    Commits are shortened to eight digits.
    """
    runs = [[segment.split(", ") for segment in segments] for segments in kinds]
    common = set.intersection(*(set(parts) for segments in runs for parts in segments))
    texts = [
        "; then ".join(", ".join(part for part in parts if part not in common) or "nothing more" for parts in segments)
        for segments in runs
    ]
    return [re.sub(r"\b([0-9a-f]{8})[0-9a-f]{32}\b", r"\1", text) for text in texts]


def differences(runs: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Settings in which the runs that count differ although a fair comparison needs them equal, and who has which.

    The code is compared within each algorithm.
    The action repeat, the arguments and the score bounds are compared task by task. Of published curves only the bounds
    are checked: the rest is unknown for most of them.
    """
    counted = runs.merge(table.loc[table["counts"], RUN], on=RUN)
    texts = []
    if {"low", "high"} <= set(counted):
        bounds = [f"{low:.15g} to {high:.15g}" for low, high in zip(counted["low"], counted["high"], strict=True)]
        for task, group in counted.assign(bounds=bounds).groupby("task"):
            texts.append(_differ(group, "bounds", f"score bounds on {task}"))
    counted = counted[~is_published(counted)]
    if "code" in counted:
        for algo, group in counted[counted["code"] != ""].groupby("algo"):
            numbers = group["code"].value_counts().sort_index()
            if len(numbers) > 1 or "; " in numbers.index[0]:
                listed = " | ".join(f"{code} ({plural(number, 'run')})" for code, number in numbers.items())
                texts.append(f"{algo}: its code was changed between or during its runs: {listed}")
    for column, name in SAME.items():
        if column in counted:
            known = counted[counted[column] != ""]
            if column in ("action_repeat", "env_args"):
                texts += [_differ(group, column, f"{name} on {task}") for task, group in known.groupby("task")]
            else:
                texts.append(_differ(known, column, name))
    return [text for text in texts if text]


def _differ(runs: pd.DataFrame, column: str, name: str) -> str:
    values = sorted(set(runs[column]))
    if len(values) < 2:
        return ""
    owners = [", ".join(sorted(set(runs.loc[runs[column] == value, "algo"]))) for value in values]
    shown = [str(value) if isinstance(value, str) else format(value, ",") for value in values]
    listed = " | ".join(f"{value} ({algos})" for value, algos in zip(shown, owners, strict=True))
    return f"the runs differ in their {name}: {listed}"


def sequential(runs: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Algorithms whose number of seeds was chosen by looking at their results."""
    if "auto" not in runs:
        return []
    counted = runs.merge(table.loc[table["counts"], RUN], on=RUN)
    names = sorted(set(counted.loc[counted["auto"] > 0, "algo"]))
    if not names:
        return []
    most = counted["auto"].max()
    return [
        f"{', '.join(names)}: seeds were added until a comparison was decided (--seeds auto:{most}); intervals and "
        "p-values here do not allow for that; the verdict that `flowbench run --seeds auto` prints at its end does"
    ]


def resamples(reps: int) -> list[str]:
    """Too few bootstrap resamples: the intervals would change much with another seed."""
    if reps >= ROUGH:
        return []
    return [f"{plural(reps, 'bootstrap resample')}: the intervals are rough; {REPS:,} are usual"]


def scope(runs: pd.DataFrame) -> list[str]:
    """A suite that has more tasks than there are runs for."""
    if "tasks" not in runs or runs["tasks"].isna().all():
        return []
    declared, here = int(runs["tasks"].max()), runs["task"].nunique()
    return (
        [f"{here} of the suite's {plural(declared, 'task')}: the aggregates are over these only"]
        if here < declared
        else []
    )


def incomplete(table: pd.DataFrame) -> list[str]:
    """Algorithms whose aggregate leaves out seeds, and algorithms without an aggregate."""
    texts = []
    tasks = table["task"].nunique()
    for algo, seeds in complete_seeds(table).items():
        known = table.loc[table["algo"] == algo, "seed"].nunique()
        if not seeds:
            texts.append(f"{algo}: no aggregate scores, because none of its seeds has all {plural(tasks, 'task')}")
        elif len(seeds) < known:
            texts.append(
                f"{algo}: the aggregate scores use {len(seeds)} of {known} seeds ({ranges(seeds)}), "
                f"because only these have all {plural(tasks, 'task')}"
            )
    return texts


def uncommon(improvement: pd.DataFrame, per_task: pd.DataFrame, tasks: list[str]) -> list[str]:
    """Pairs of algorithms that are compared on some of the tasks only; pairs that lack the same tasks share a line."""
    pairs: dict[tuple[str, ...], list[str]] = {}
    for row in improvement[improvement["tasks"] < len(tasks)].itertuples():
        own = per_task[(per_task["algo"] == row.algo) & (per_task["over"] == row.over)]
        pairs.setdefault(tuple(sorted(set(tasks) - set(own["task"]))), []).append(f"{row.algo} > {row.over}")
    return [
        f"{', '.join(names)}: compared over {len(tasks) - len(lacked)} of {plural(len(tasks), 'task')}, because "
        f"not both have {', '.join(lacked)}"
        if len(lacked) < len(tasks)
        else f"{', '.join(names)}: no probability of improvement, because they have no task in common"
        for lacked, names in pairs.items()
    ]


def few(aggregates: pd.DataFrame, per_task: pd.DataFrame) -> list[str]:
    """Algorithms with too few seeds for a useful interval; algorithms with the same number share a line."""
    complete = dict(zip(aggregates["algo"], aggregates["seeds"], strict=True))
    fewest = per_task[per_task["seeds"] > 0].groupby("algo")["seeds"].min()
    groups: dict[tuple[int, str], list[str]] = {}
    for algo, least in zip(fewest.index.astype(str), fewest, strict=True):
        where = "" if complete[algo] else " on some tasks"
        count = int(complete[algo] or least)
        if count < FEWEST:
            groups.setdefault((count, where), []).append(algo)
    effect = {1: "no interval and no verdict", 2: "the interval is unreliable and there is no verdict"}
    return [
        f"{plural(count, 'seed')}{where}: {effect[count]}; use 5 or more ({', '.join(algos)})"
        for (count, where), algos in sorted(groups.items())
    ]


def tails(runs: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Learning curves that end before the longest of their runs, because every point is a mean over all runs."""
    ours = runs.loc[~is_published(runs), "steps"]
    rows = table[table["counts"] & ~ended_diverged(table)].merge(runs[[*RUN, "every"]], on=RUN)
    if len(ours):  # published curves are drawn up to the end of ours
        rows["reached"] = rows["reached"].clip(upper=int(ours.max()))
    cut: dict[str, list[str]] = {}
    for (algo, task), group in rows.groupby(["algo", "task"]):
        first, last = group["reached"].min(), group["reached"].max()
        if first + group["every"].max() <= last:
            cut.setdefault(str(algo), []).append(f"{task} (step {first:,} of {last:,})")
    return [
        f"{algo}: its learning curve ends where the shortest of its runs ends, on {', '.join(tasks)}"
        for algo, tasks in cut.items()
    ]


def survivors(table: pd.DataFrame) -> list[str]:
    """Algorithms with runs that diverged before a finite evaluation: their worst runs on the task are not counted."""
    texts = []
    for (algo, task), group in table[table["counts"] | table["lost"]].groupby(["algo", "task"]):
        seeds = group.loc[group["lost"], "seed"]
        if len(seeds):
            left = "its numbers there are of SURVIVORS ONLY" if group["counts"].any() else "no run is left"
            texts.append(
                f"{algo}, {task}: {plural(len(seeds), 'seed')} ({ranges(seeds)}) diverged before any finite evaluation "
                f"and cannot be counted: {left}"
            )
    return texts


def evaluations(table: pd.DataFrame, step: int) -> list[str]:
    """Runs that diverged, and algorithms whose last evaluation is before the step."""
    texts = [
        f"{row.algo}, {row.task}, seed {row.seed}: diverged by step {step:,}; "
        f"its last finite evaluation, at step {row.step:,}, is used"
        for row in table[table["diverged"]].itertuples()
    ]
    for algo, group in table[table["counts"] & ~table["diverged"]].groupby("algo"):
        low, high = int(group["step"].min()), int(group["step"].max())
        if low < step:
            at = f"step {low:,}" if low == high else f"steps {low:,} to {high:,}"
            texts.append(f"{algo}: its last evaluation at or before step {step:,} is used, at {at}")
    return texts
