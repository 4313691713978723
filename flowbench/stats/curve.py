"""Learning curves: the interquartile mean over the tasks of a suite at every step, and the mean return of each task."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pandas as pd

from flowbench.stats.aggregate import drawn_iqm, iqm
from flowbench.stats.bootstrap import REPS, Floats, ends, strata_drawn, times_drawn
from flowbench.stats.scores import RUN, at_step, check, complete_seeds, ended_diverged, of_runs


def curves(table: pd.DataFrame, evals: pd.DataFrame, step: int, *, reps: int = REPS, seed: int = 0) -> pd.DataFrame:
    """The IQM of the normalised scores of one suite at every step up to ``step``, with 95 % intervals.

    Takes the table of ``at_step`` and the evaluations that it was made from. Returns algo, step, estimate, low, high,
    ``seconds`` (training time at that step, mean over the runs; NaN if unknown), seeds and tasks (counts). Uses
    complete seeds and the steps at which all of their runs were evaluated. A diverged run keeps the score of its last
    finite evaluation. Without a complete seed there are no rows; with one there are no intervals. Repeatability and
    errors: see ``aggregates``.
    """
    check(table, reps)
    tasks = sorted(set(table["task"]))
    before = of_runs(table, evals[evals["step"] <= step])
    frames = []
    for algo, seeds in complete_seeds(table).items():
        own = before[(before["algo"] == algo) & before["seed"].isin(seeds)]
        scores = _aligned(table[table["algo"] == algo], own, ["seed", "task"], "score")
        if not seeds or scores.empty:
            continue
        values = scores.to_numpy(dtype=np.float64)
        low = high = np.full(len(values), np.nan)
        if len(seeds) > 1:
            random = np.random.default_rng(seed)
            drawn = strata_drawn(random, len(seeds), len(tasks), reps).reshape(reps, -1).T.astype(np.int16)
            low, high = ends(np.stack([drawn_iqm(line, drawn) for line in values], axis=1))
        estimate = iqm(values[:, None, :])
        seconds = _seconds(own, scores.index)
        numbers = {"step": scores.index, "estimate": estimate, "low": low, "high": high, "seconds": seconds}
        frames.append(pd.DataFrame({"algo": algo, **numbers, "seeds": len(seeds), "tasks": len(tasks)}))
    columns = ["algo", "step", "estimate", "low", "high", "seconds", "seeds", "tasks"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def task_curves(runs: pd.DataFrame, evals: pd.DataFrame, step: int, *, reps: int = REPS, seed: int = 0) -> pd.DataFrame:
    """The mean return over the seeds at every step, for each task and algorithm of one suite, with 95 % intervals.

    Takes frames with distinct labels. Returns task, algo, step, estimate, low, high and seeds (count). Uses the runs
    that count at ``step``, or all runs of a task and algorithm if none does. Every point is a mean over all of these
    runs, so a curve ends where the first of them ends, which may be after ``step``. Diverged runs: as in ``curves``.
    With one seed there is no interval.
    """
    runs = _counting(runs, evals, step)
    frames = []
    for (task, algo), own in of_runs(runs, evals).groupby(["task", "algo"]):
        curve = _aligned(runs[(runs["task"] == task) & (runs["algo"] == algo)], own, ["seed"], "mean")
        values = curve.to_numpy(dtype=np.float64)
        seeds = values.shape[1]
        low = high = np.full(len(values), np.nan)
        if seeds > 1 and len(values):
            drawn = times_drawn(np.random.default_rng(seed), seeds, reps)
            low, high = ends(drawn @ values.T / seeds)
        numbers = {"step": curve.index, "estimate": values.mean(axis=1), "low": low, "high": high}
        frames.append(pd.DataFrame({"task": task, "algo": algo, **numbers, "seeds": seeds}))
    columns = ["task", "algo", "step", "estimate", "low", "high", "seeds"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def _counting(runs: pd.DataFrame, evals: pd.DataFrame, step: int) -> pd.DataFrame:
    """The runs that count at a step, and all runs of each task and algorithm without a run that counts."""
    table = at_step(runs, evals, step)
    counts = runs[RUN].merge(table[[*RUN, "counts"]], on=RUN)["counts"].set_axis(runs.index)
    return runs[counts | ~counts.groupby([runs["task"], runs["algo"]]).transform("any")]


def _aligned(runs: pd.DataFrame, evals: pd.DataFrame, by: list[Hashable], value: str) -> pd.DataFrame:
    """[steps at which every run was evaluated, runs in the order of ``by``]: the values of an evaluation column.

    NaN is replaced by the last value before it. A run that ended diverged keeps its last value to the end.
    """
    evals = evals.assign(**{value: evals[value].where(np.isfinite(evals[value]))})
    by_run = evals.groupby(RUN, sort=False)[value]
    evals[value] = by_run.ffill()
    values = evals.pivot(index="step", columns=by, values=value).sort_index(axis="columns")
    ended = values.columns.isin(runs[ended_diverged(runs)].set_index(by).index)
    values.loc[:, ended] = values.loc[:, ended].ffill()
    return values.dropna()


def _seconds(evals: pd.DataFrame, steps: pd.Index) -> Floats:
    if "seconds" not in evals:
        return np.full(len(steps), np.nan)
    return evals.groupby("step")["seconds"].mean().reindex(steps).to_numpy(dtype=np.float64)
