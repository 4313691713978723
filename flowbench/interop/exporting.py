"""`flowbench export`: write our runs as learning curves in the formats of other projects, or as matrices of scores."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pandas as pd

from flowbench import stats
from flowbench.common.errors import UsageError, one_of
from flowbench.interop.curve import Curve
from flowbench.stats import cautions

CURVES = {"tdmpc2": "tdmpc2", "simbav2": "simbav2", "csv": "plain"}
SCORES = "scores"
SCHEMA = 1


@dataclass(frozen=True)
class Written:
    """What was written, and a line for each thing that was left out."""

    what: str
    left_out: list[str]


def run(format: str, path: Path, runs: pd.DataFrame, evals: pd.DataFrame, *, step: int | None = None) -> Written:
    """Write our runs among these, which are of one suite, to a new file or folder; `step` is for scores only.

    Raises UsageError for an unknown format, for several suites, if there is nothing to export, and for a path that
    exists or cannot be written.
    """
    one_of("format", format, (*CURVES, SCORES))
    if step is not None and format != SCORES:
        raise UsageError(f"--step is for --format {SCORES}; {format} holds whole curves")
    ours = runs[~stats.is_published(runs)]
    suites = sorted(set(ours["suite"]))
    if len(suites) > 1:
        raise UsageError(f"runs of several suites ({', '.join(suites)}): name one with --suite")
    left_out: list[str] = []
    if format == SCORES and step is None:  # the same runs as in a report
        ours, short = stats.full_length(ours)
        left_out = cautions.short(short, evals)
    ours, evals = stats.distinct_labels(ours, evals)
    evals = evals.merge(ours[[*stats.RUN, "action_repeat"]], on=stats.RUN) if len(ours) and len(evals) else evals[:0]
    if evals.empty:
        nothing = "no run of ours among these has an evaluation: there is nothing to export"
        raise UsageError("; ".join([nothing, *left_out]))
    if path.exists():
        raise UsageError(f"{str(path)!r} exists already; remove it or choose another path")
    try:
        if format == SCORES:
            return _write_scores(path, ours, evals, step, left_out)
        curves = _curves(evals)
        import_module(f"flowbench.interop.{CURVES[format]}").write(curves, path)
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be written: {error.strerror}") from error
    return Written(f"{len(curves)} curve{'s' * (len(curves) != 1)} of suite {suites[0]}", [])


def _curves(evals: pd.DataFrame) -> list[Curve]:
    """The learning curves of these evaluations, with the steps of the simulator (before action repeat)."""
    evals = evals.assign(step=evals["step"] * evals["action_repeat"]).sort_values("step", kind="stable")
    curves: dict[tuple[str, str, int], Curve] = {}
    for algo, task, seed, step, mean in evals[["algo", "task", "seed", "step", "mean"]].itertuples(index=False):
        curves.setdefault((algo, task, seed), Curve(algo, task, seed)).points[step] = mean
    return [curves[key] for key in sorted(curves)]


def _write_scores(
    path: Path, runs: pd.DataFrame, evals: pd.DataFrame, step: int | None, left_out: list[str]
) -> Written:
    """The matrices of rliable (complete seeds by tasks), with the names of their rows and columns."""
    step = stats.common_step(runs, evals) if step is None else step
    table = stats.at_step(runs, evals, step)
    tasks = sorted(set(table["task"]))
    seeds = stats.complete_seeds(table)
    if not any(seeds.values()):
        raise UsageError(f"no algorithm has a seed that counts on all {len(tasks)} tasks at step {step:,}")
    algorithms = {
        algo: {"seeds": seeds[algo], "scores": matrix.tolist()}
        for algo, matrix in stats.score_matrices(table).items()
        if seeds[algo]
    }
    suite = str(runs["suite"].iloc[0])
    content = {"schema": SCHEMA, "suite": suite, "step": step, "tasks": tasks, "algorithms": algorithms}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, allow_nan=False, indent=2) + "\n", encoding="utf-8")
    sizes = ", ".join(f"{algo} {len(seeds[algo])} x {len(tasks)}" for algo in algorithms)
    return Written(
        f"normalised scores at step {step:,}, runs x tasks: {sizes}", [*left_out, *_incomplete(table, seeds)]
    )


def _incomplete(table: pd.DataFrame, complete: dict[str, list[int]]) -> list[str]:
    """A line for every algorithm with seeds that are not in its matrix."""
    return [
        f"{algo}, seeds {', '.join(map(str, lacking))}: not on every task"
        for algo, own in complete.items()
        if (lacking := sorted(set(table.loc[table["algo"] == algo, "seed"]) - set(own)))
    ]
