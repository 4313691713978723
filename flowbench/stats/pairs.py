"""Every pair of algorithms: the probability that one scores higher than the other, and whether a test decides it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from flowbench.stats import rank_tests
from flowbench.stats.bootstrap import REPS, Floats, ends, times_drawn
from flowbench.stats.published import is_published
from flowbench.stats.rank_tests import BETTER, NO_TASK, TOO_FEW, UNDECIDED, WORSE
from flowbench.stats.scores import check

PERMUTATIONS = 10_000  # of the test over the tasks; does not depend on the number of bootstrap resamples
LEAST = 100  # permutations for each pair: with fewer, the corrected p-value of many pairs could never be small
Sample = tuple[Floats, Floats]  # the scores of both algorithms on one task


def improvement(
    table: pd.DataFrame, *, reps: int = REPS, seed: int = 0, baseline: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """P(algo > over) and the verdict for every pair of algorithms of one suite: over the tasks, and on each task.

    With a ``baseline`` only its pairs are tested, and the correction is for these.

    On a task, P(algo > over) is the share of all pairs (a run of ``algo``, a run of ``over``) in which the first run
    scores higher; a tie counts half. Over the tasks, it is the mean over the tasks that both algorithms have. Every run
    that counts is used, so tasks may differ in their seeds. ``low`` and ``high`` are the ends of the 95 % interval of a
    bootstrap that resamples the runs of each algorithm within each task; with one run on a task, they are NaN.

    ``p`` is the p-value of the exact Mann-Whitney test on a task, and of a permutation test stratified by task over the
    tasks. ``p_holm`` is p after Holm's correction for ``tests`` tests: on a task, for the tasks of the pair; over the
    tasks, for the pairs with a common task. Pairs with published curves are corrected separately, so that they do not
    change the verdicts on our algorithms. ``verdict`` is "better" or "worse" if p_holm is at most 0.05 and both have
    three runs or more on every task. Otherwise it is "undecided", or "too few seeds" if not even the clearest outcome
    could be decided (``rank_tests.enough``), or "no common task".

    Takes the table of ``at_step``; returns two frames, with one row for each pair (algo before over in alphabetical
    order of ``label``, so that a display name changes no number) and one row for each pair and task. Other columns:
    ``task`` (second frame only), ``seeds`` and ``over_seeds`` (the smallest number on any of the tasks), ``tasks``
    (first frame only: how many both have). Repeatability and errors: see ``aggregates``. All numbers but ``p_holm`` and
    ``tests`` do not depend on the other algorithms.
    """
    check(table, reps)
    scores = scores_by_task(table)
    named = sorted(set(zip(table.get("label", table["algo"]), table["config_id"], table["algo"], strict=True)))
    both = combinations(dict.fromkeys(algo for *_, algo in named), 2)
    pairs = {pair: common(scores, *pair) for pair in both if baseline is None or baseline in pair}
    published = set(table.loc[is_published(table), "algo"])
    outcome: dict[tuple[str, str], dict[str, Any]] = {}
    for with_published in (False, True):
        family = [pair for pair in pairs if pairs[pair] and with_published == bool(published & set(pair))]
        samples = [list(pairs[pair].values()) for pair in family]
        permutations = max(PERMUTATIONS, LEAST * len(family))
        p_values = [rank_tests.stratified_p_value(own, permutations, seed) for own in samples]
        outcome |= zip(family, _tested(p_values, samples), strict=True)
    nothing = {"p": math.nan, "p_holm": math.nan, "tests": 0, "verdict": NO_TASK}
    overall, each = [], []
    for (algo, over), by_task in pairs.items():
        wins = [outcomes(*sample) for sample in by_task.values()]
        drawn = drawn_means(wins, reps, seed)
        tested = _tested([rank_tests.p_value(*s) for s in by_task.values()], [[s] for s in by_task.values()])
        for place, (task, result) in enumerate(zip(by_task, tested, strict=True)):
            numbers = _estimated(drawn[[place]], wins[place : place + 1])
            each.append({"task": task, "algo": algo, "over": over, **numbers, **result})
        result = outcome.get((algo, over), nothing)
        overall.append({"algo": algo, "over": over, **_estimated(drawn, wins), **result, "tasks": len(by_task)})
    columns = ["algo", "over", "estimate", "low", "high", "seeds", "over_seeds", *nothing]
    return pd.DataFrame(overall, columns=[*columns, "tasks"]), pd.DataFrame(each, columns=["task", *columns])


def both_ways(pairs: pd.DataFrame) -> pd.DataFrame:
    """The rows of a frame of ``improvement`` and, for each, the row of the reversed pair: P(over > algo)."""
    reverse = pairs.assign(
        algo=pairs["over"],
        over=pairs["algo"],
        estimate=1 - pairs["estimate"],
        low=1 - pairs["high"],
        high=1 - pairs["low"],
        seeds=pairs["over_seeds"],
        over_seeds=pairs["seeds"],
        verdict=pairs["verdict"].replace({BETTER: WORSE, WORSE: BETTER}),
    )
    return pd.concat([pairs, reverse], ignore_index=True)


def oriented(pairs: pd.DataFrame, order: Sequence[str], baseline: str | None = None) -> pd.DataFrame:
    """The rows of a frame of ``improvement`` in an order of the algorithms: ``algo`` is before ``over`` in it.

    With a ``baseline``, ``over`` is the baseline.
    """
    ranks = {algo: place for place, algo in enumerate(order)}
    both = both_ways(pairs)
    both = both.assign(first=both["algo"].map(ranks), second=both["over"].map(ranks))
    chosen = both[both["first"] < both["second"] if baseline is None else both["over"] == baseline]
    return chosen.sort_values(["first", "second"], kind="stable", ignore_index=True).drop(columns=["first", "second"])


def scores_by_task(table: pd.DataFrame) -> dict[tuple[str, str], Floats]:
    """The scores of the runs that count, by algorithm and task, in the order of their seeds."""
    counted = table[table["counts"]].sort_values("seed")
    groups = counted.groupby(["algo", "task"])["score"]
    return {(str(algo), str(task)): group.to_numpy(dtype=np.float64) for (algo, task), group in groups}


def common(scores: dict[tuple[str, str], Floats], algo: str, over: str) -> dict[str, Sample]:
    """The scores of both algorithms on each task that both have."""
    tasks = sorted(task for name, task in scores if name == algo and (over, task) in scores)
    return {task: (scores[algo, task], scores[over, task]) for task in tasks}


def outcomes(x: Floats, y: Floats) -> Floats:
    """[runs of x, runs of y]: 1 where the score of x is higher, 0.5 where they tie, 0 elsewhere."""
    return np.where(x[:, None] > y, 1.0, np.where(x[:, None] == y, 0.5, 0.0))


def drawn_means(wins: Sequence[Floats], reps: int, seed: int) -> Floats:
    """[tasks, reps]: the mean of the outcomes of each task, with its rows and its columns resampled."""
    random = np.random.default_rng(seed)
    means = [
        ((times_drawn(random, len(win), reps) @ win) * times_drawn(random, win.shape[1], reps)).sum(axis=1) / win.size
        for win in wins
    ]
    return np.array(means).reshape(len(wins), reps)


def _estimated(drawn: Floats, wins: Sequence[Floats]) -> dict[str, float]:
    """P(x > y) over tasks with its interval, and the smallest number of runs of x and of y on any task."""
    if not wins:
        return {"estimate": math.nan, "low": math.nan, "high": math.nan, "seeds": 0, "over_seeds": 0}
    seeds, over_seeds = min(len(win) for win in wins), min(win.shape[1] for win in wins)
    low, high = ends(drawn.mean(axis=0)).tolist() if min(seeds, over_seeds) > 1 else (math.nan, math.nan)
    estimate = float(np.mean([win.mean() for win in wins]))
    return {"estimate": estimate, "low": low, "high": high, "seeds": seeds, "over_seeds": over_seeds}


def _tested(p_values: Sequence[float], samples: Sequence[Sequence[Sample]]) -> list[dict[str, Any]]:
    """p, p_holm, tests and verdict for a family of tests that are corrected together."""
    tests = len(p_values)
    found = []
    for p, p_holm, own in zip(p_values, rank_tests.holm(p_values), samples, strict=True):
        sizes = [(len(x), len(y)) for x, y in own]
        difference = float(np.mean([outcomes(*sample).mean() for sample in own])) - 0.5
        verdict = rank_tests.verdict(p_holm, difference)
        if not rank_tests.enough(sizes, tests if verdict == UNDECIDED else 1):
            verdict = TOO_FEW
        found.append({"p": p, "p_holm": p_holm, "tests": tests, "verdict": verdict})
    return found
