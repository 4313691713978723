"""Experiments that are timings: a short run of each algorithm, extrapolated to the length that is asked about."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import suites
from flowbench import bench
from flowbench.bench import loop
from flowbench.bench.setting import Setting
from flowbench.experiments.outcome import Outcome, save


def cost(scale: Mapping[str, Any]) -> str:
    """How much there is to measure."""
    return f"{len(scale['algo'])} algorithms, {scale['steps']:,} steps of {scale['task']} each"


def run(scale: Mapping[str, Any], folder: Path, device: str, tell: Callable[[float], None]) -> Outcome:
    """Measure, and draw into `folder`; `tell` hears the share that is done. Raises UsageError and SuiteError."""
    setting = Setting.choose(device, "auto", None)
    suite, task = loop.find(scale["task"])
    suites.require(task.source)
    steps, whole = scale["steps"], scale["extrapolate"]
    given = {"random_steps": steps // 5}
    chosen = bench.variants(dataclasses.replace(suite, steps=steps), scale["algo"], scale.get("set", []), given)
    rows = []
    with setting.applied():
        for variant in chosen:
            row = loop.measure(task, variant, 1, setting)
            learned = steps - variant.config.random_steps
            hours = seconds_for(whole, row["wall"], steps, learned, suite.evaluation.every) / 3600
            rows.append((row["algo"], hours, 1e3 * row["wall"]["act"] / learned))
            tell(len(rows) / len(chosen))
    return Outcome(
        ["algorithm", f"hours for {whole:,} steps", "ms an action", "steps measured", "device"],
        [[name, f"{hours:.2f}", f"{act:.2f}", f"{steps:,}", str(setting.device)] for name, hours, act in rows],
        save(draw(rows, task.name, whole), folder / "efficiency"),
    )


def seconds_for(whole: int, wall: Mapping[str, float], steps: int, learned: int, every: int) -> float:
    """Seconds for `whole` steps with an evaluation at `every` so many, from a run of `steps` that had one.

    `learned` of them came after the random phase: only those were spent on updates, batches and the policy's actions.
    """
    of_learning = ("act", "replay", "update")
    a_step = sum(
        seconds / (learned if what in of_learning else steps) for what, seconds in wall.items() if what != "evaluation"
    )
    return whole * a_step + whole / every * wall["evaluation"]


def draw(rows: Sequence[tuple[str, float, float]], task: str, steps: int) -> Figure:
    """Two panels of points for (name, hours of training, milliseconds an action)."""
    names, hours, acting = zip(*rows, strict=True)
    figure = Figure(figsize=(6.75, 2.2), layout="constrained")
    for panel, values, label in zip(
        figure.subplots(1, 2, sharey=True),
        (hours, acting),
        (f"hours of training, {steps:,} steps of {task}", "milliseconds an action"),
        strict=True,
    ):
        # No bars: their length would mean nothing on a logarithmic axis.
        panel.plot(values, names, "o", color="#0072B2", markersize=6)
        for name, value in zip(names, values, strict=True):
            panel.annotate(f"{value:.3g}", (value, name), (0, 5), textcoords="offset points", ha="center", fontsize=7)
        panel.set_xscale("log")
        panel.grid(axis="y", linewidth=0.3)
        panel.margins(x=0.25, y=0.2)
        panel.set_xlabel(label, fontsize=8)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    panel.invert_yaxis()
    return figure
