"""What a report's numbers do not say: holes, differences between runs, intervals too rough to lean on. A line each."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from flowbench import stats
from flowbench.common.text_table import plural, ranges
from flowbench.store.load import THEN

FEW = 3  # fewer seeds than this get a warning
ROUGH = 1000  # so do fewer resamples
# Runs compare if these are the same: the column, and how it is called.
SAME = {
    "steps": "budget in steps",
    "every": "steps between evaluations",
    "episodes": "episodes an evaluation",
    "action_repeat": "action repeat",
    "device": "device",
    "precision": "precision of matrix products",
    "mujoco": "version of mujoco",
    "dm_control": "version of dm_control",
}


def short(runs: pd.DataFrame, evals: pd.DataFrame) -> list[str]:
    """Algorithms whose runs are left out because they are short, and where they can be compared."""
    evaluated = set() if evals.empty else set(evals[stats.RUN].itertuples(index=False, name=None))
    texts = []
    for (algo, steps), group in runs.groupby(["algo", "steps"]):
        there = evaluated & set(group[stats.RUN].itertuples(index=False, name=None))
        where = f" (--step {steps} compares there)" if there else ""
        texts.append(f"{algo} is left out: it trains for {steps:,} steps only{where}")
    return texts


def labels(plain: pd.DataFrame, runs: pd.DataFrame) -> list[str]:
    """Labels that had to be told apart."""
    names = pd.DataFrame({"old": plain["algo"], "new": runs["algo"]}).drop_duplicates()
    return [
        f"{old} stands for {len(group)} different configurations, kept apart as {', '.join(sorted(group['new']))}"
        for old, group in names.groupby("old")
        if len(group) > 1
    ]


def unfinished(table: pd.DataFrame) -> list[str]:
    """Runs that reached the step and count, but are not done; of those that diverged ``evaluations`` tells."""
    rows = table[table["counts"] & ~table["diverged"] & (table["status"] != "done")]
    return [
        f"{row.algo}, {row.task}, seed {row.seed}: {row.status}, but it had reached the step and counts"
        for row in rows.itertuples()
    ]


def mixed(runs: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Algorithms whose runs differ in software, device or threads, which no config tells."""
    if "software" not in runs:
        return []
    counted = runs.merge(table.loc[table["counts"], stats.RUN], on=stats.RUN)
    texts = []
    for algo, group in counted[counted["software"] != ""].groupby("algo"):
        kinds = sorted(set(group["software"]))
        if len(kinds) > 1:
            shown = " | ".join(_apart(kinds))
            texts.append(f"{algo}: its runs differ in software, device or threads: {shown}")
    return texts


def _apart(kinds: Sequence[str]) -> list[str]:
    """Each of several texts of `store` without what all of them say, and commits as short as people quote them."""
    runs = [[stretch.split(", ") for stretch in kind.split(THEN)] for kind in kinds]
    common = set.intersection(*(set(parts) for stretches in runs for parts in stretches))
    left = [
        [", ".join(part for part in parts if part not in common) or "no more" for parts in stretches]
        for stretches in runs
    ]
    return [re.sub(r"\b([0-9a-f]{8})[0-9a-f]{32}\b", r"\1", THEN.join(stretches)) for stretches in left]


def differences(runs: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """In what the runs that count differ though a comparison wants them alike, and which algorithms have which value.

    An action repeat may be another on another task. Published curves are named as such and say nothing of most of it.
    """
    counted = runs.merge(table.loc[table["counts"], stats.RUN], on=stats.RUN)
    counted = counted[~stats.is_published(counted)]
    texts = []
    for column, spoken in SAME.items():
        if column in counted:
            known = counted[counted[column] != ""]
            if column == "action_repeat":
                found = [(f"{task}: ", _differ(group, column, spoken)) for task, group in known.groupby("task")]
            else:
                found = [("", _differ(known, column, spoken))]
            texts += [where + said for where, said in found if said]
    return texts


def _differ(runs: pd.DataFrame, column: str, spoken: str) -> str:
    values = sorted(set(runs[column]))
    if len(values) < 2:
        return ""
    owners = [", ".join(sorted(set(runs.loc[runs[column] == value, "algo"]))) for value in values]
    shown = [str(value) if isinstance(value, str) else format(value, ",") for value in values]
    said = " | ".join(f"{value} ({algos})" for value, algos in zip(shown, owners, strict=True))
    return f"the runs differ in their {spoken}: {said}"


def sequential(runs: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Algorithms whose number of seeds came of looking at their results."""
    if "auto" not in runs:
        return []
    counted = runs.merge(table.loc[table["counts"], stats.RUN], on=stats.RUN)
    names = sorted(set(counted.loc[counted["auto"] > 0, "algo"]))
    if not names:
        return []
    most = counted["auto"].max()
    return [
        f"{', '.join(names)}: seeds were added until a comparison was decided (--seeds auto:{most}); intervals and "
        "p-values here know nothing of that, the verdict that `flowbench run --seeds auto` ends with does"
    ]


def resamples(reps: int) -> list[str]:
    """Too few resamples for intervals that would come out the same with another seed."""
    if reps >= ROUGH:
        return []
    return [f"{plural(reps, 'resample')}: the intervals are rough; {stats.REPS:,} are customary here"]


def normalising(runs: pd.DataFrame) -> list[str]:
    """Tasks whose score bounds changed from run to run, so that their scores do not compare."""
    bounds = runs[["task", "low", "high"]].drop_duplicates().groupby("task").size()
    return [f"{task}: its runs were normalised by different bounds" for task in bounds.index[bounds > 1]]


def scope(runs: pd.DataFrame) -> list[str]:
    """A suite that declares more tasks than there are runs of."""
    if "tasks" not in runs or runs["tasks"].isna().all():
        return []
    declared, here = int(runs["tasks"].max()), runs["task"].nunique()
    return [f"{here} of the suite's {plural(declared, 'task')}: the aggregates cover these"] if here < declared else []


def incomplete(table: pd.DataFrame) -> list[str]:
    """Algorithms whose aggregate leaves out seeds, or that have none."""
    texts = []
    tasks = table["task"].nunique()
    for algo, seeds in stats.complete_seeds(table).items():
        known = table.loc[table["algo"] == algo, "seed"].nunique()
        if not seeds:
            texts.append(f"{algo}: no aggregate, because no seed has all {plural(tasks, 'task')}")
        elif len(seeds) < known:
            texts.append(
                f"{algo}: the aggregate uses {len(seeds)} of {known} seeds ({ranges(seeds)}), "
                f"those that all {plural(tasks, 'task')} have"
            )
    return texts


def uncommon(improvement: pd.DataFrame, per_task: pd.DataFrame, tasks: list[str]) -> list[str]:
    """Pairs of algorithms that are compared on some of the tasks only, those that lack the same together."""
    pairs: dict[tuple[str, ...], list[str]] = {}
    for row in improvement[improvement["tasks"] < len(tasks)].itertuples():
        own = per_task[(per_task["algo"] == row.algo) & (per_task["over"] == row.over)]
        pairs.setdefault(tuple(sorted(set(tasks) - set(own["task"]))), []).append(f"{row.algo} > {row.over}")
    return [
        f"{', '.join(names)}: over {len(tasks) - len(lacked)} of {plural(len(tasks), 'task')}, those that both have "
        f"(without {', '.join(lacked)})"
        if len(lacked) < len(tasks)
        else f"{', '.join(names)}: no probability of improvement, because there is no task that both have"
        for lacked, names in pairs.items()
    ]


def few(aggregates: pd.DataFrame, per_task: pd.DataFrame) -> list[str]:
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
        f"{plural(count, 'seed')}{where}: {effect[count]}; 5 or more are customary ({', '.join(algos)})"
        for (count, where), algos in sorted(groups.items())
    ]


def tails(runs: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Learning curves that end before the longest of their runs, because every point is of all of them."""
    ours = runs.loc[~stats.is_published(runs), "steps"]
    rows = table[table["counts"] & ~stats.ended_diverged(table)].merge(runs[[*stats.RUN, "every"]], on=stats.RUN)
    if len(ours):  # published curves are drawn as far as ours
        rows["reached"] = rows["reached"].clip(upper=int(ours.max()))
    cut: dict[str, list[str]] = {}
    for (algo, task), group in rows.groupby(["algo", "task"]):
        first, last = group["reached"].min(), group["reached"].max()
        if first + group["every"].max() <= last:
            cut.setdefault(str(algo), []).append(f"{task} (step {first:,} of {last:,})")
    return [
        f"{algo}: its learning curve ends where the first of its runs does on {', '.join(tasks)}"
        for algo, tasks in cut.items()
    ]


def survivors(table: pd.DataFrame) -> list[str]:
    """Algorithms of which runs on a task diverged with nothing to count, so that the worst are left out there."""
    texts = []
    for (algo, task), group in table[table["counts"] | table["lost"]].groupby(["algo", "task"]):
        seeds = group.loc[group["lost"], "seed"]
        if len(seeds):
            left = "its numbers there are those of SURVIVORS ONLY" if group["counts"].any() else "nothing is left"
            texts.append(
                f"{algo}, {task}: {plural(len(seeds), 'seed')} ({ranges(seeds)}) diverged before any finite evaluation "
                f"and cannot count: {left}"
            )
    return texts


def evaluations(table: pd.DataFrame, step: int) -> list[str]:
    """Runs that diverged, and algorithms whose evaluations are older than the step."""
    texts = [
        f"{row.algo}, {row.task}, seed {row.seed}: diverged by step {step:,}; "
        f"its last finite evaluation, at step {row.step:,}, counts"
        for row in table[table["diverged"]].itertuples()
    ]
    for algo, group in table[table["counts"] & ~table["diverged"]].groupby("algo"):
        low, high = int(group["step"].min()), int(group["step"].max())
        if low < step:
            at = f"step {low:,}" if low == high else f"steps {low:,} to {high:,}"
            texts.append(f"{algo}: evaluated at {at}, the last at or before {step:,}")
    return texts
