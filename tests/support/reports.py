"""Reports on invented runs."""

import io

import numpy as np
import pandas as pd
from rich.console import Console

from flowbench import report

VARIANT = "flowrl[flow_steps=5,constraint=false]"
ALGOS = ("flowrl", VARIANT, "sac", "td3")
TASKS = ("dog-run", "dog-stand", "dog-trot", "dog-walk", "humanoid-run", "humanoid-stand", "humanoid-walk")


def frames(algos=ALGOS, tasks=TASKS, seeds=range(5), *, steps=10_000, every=2500, suite="dmc-hard", **run):
    """A full grid whose returns rise with the step, one dictionary of run facts for all its cells."""
    random = np.random.default_rng(0)
    runs, evals = [], []
    for algo in algos:
        for task in tasks:
            for seed in seeds:
                key = {"suite": suite, "task": task, "algo": algo, "config_id": f"id-{algo}", "seed": seed}
                facts = {"status": "done", "steps": steps, "every": every, "low": 0.0, "high": 1000.0}
                more = {"comparable": True, "note": "", "tasks": len(tasks), "error": ""}
                runs.append(key | facts | more | run)
                for step in range(every, steps + 1, every):
                    mean = random.uniform(100, 900) * step / steps
                    evals.append(key | {"step": step, "mean": mean, "score": mean / 1000})
    return pd.DataFrame(runs), pd.DataFrame(evals)


def without(evals, *, after=-1, **cell):
    """The evaluations less those of a cell after a step."""
    chosen = np.logical_and.reduce([evals[name] == value for name, value in cell.items()])
    return evals[~(chosen & (evals["step"] > after))]


def holes():
    """Four algorithms, seven tasks, five seeds: one run failed, one diverged, one task never started."""
    runs, evals = frames()
    failed = (runs["algo"] == VARIANT) & (runs["task"] == "dog-trot") & (runs["seed"] == 3)
    runs.loc[failed, ["status", "error"]] = ["failed", "Traceback\n  File x\nRuntimeError: a|b [red]went[/red] *wrong*"]
    evals = without(evals, algo=VARIANT, task="dog-trot", seed=3, after=5000)
    diverged = (evals["algo"] == "sac") & (evals["task"] == "dog-run") & (evals["seed"] == 1) & (evals["step"] > 7500)
    evals.loc[diverged, ["mean", "score"]] = float("nan")
    gone = (runs["algo"] == "td3") & (runs["task"] == "dog-run")
    return runs[~gone], without(evals, algo="td3", task="dog-run")


def build(runs, evals, **options):
    return report.build(runs, evals, **{"reps": 50} | options)


def shown(built, width=80):
    out = io.StringIO()
    report.show(built, Console(file=out, width=width))
    return out.getvalue()
