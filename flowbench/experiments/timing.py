"""Experiments that are timings: time a short run of each algorithm and extrapolate to the full length."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import suites
from flowbench.bench import loop
from flowbench.bench.run import variants
from flowbench.bench.setting import Setting
from flowbench.experiments.outcome import Outcome, save

LEARNING = ("act", "replay", "update")  # parts of a run that start after the random phase


def cost(scale: Mapping[str, Any]) -> str:
    """How much there is to measure."""
    return f"{len(scale['algo'])} algorithms, {scale['steps']:,} steps of {scale['task']} each"


def run(scale: Mapping[str, Any], folder: Path, device: str, on_progress: Callable[[float], None]) -> Outcome:
    """Measure, and draw into `folder`. `on_progress` receives the finished share. Raises UsageError and SuiteError."""
    setting = Setting.choose(device, "auto", None)
    suite, task = loop.find(scale["task"])
    suites.require(task.source)
    steps, full_length = scale["steps"], scale["extrapolate"]
    suite = dataclasses.replace(suite, steps=steps)
    chosen = variants(suite, scale["algo"], scale.get("set", []), {"random_steps": steps // 5})
    rows = []
    with setting.applied():
        for variant in chosen:
            row = loop.measure(task, variant, 1, setting)
            learned = steps - variant.config.random_steps
            hours = seconds_for(full_length, row["wall"], steps, learned, suite.evaluation.every) / 3600
            rows.append((row["algo"], hours, 1e3 * row["wall"]["act"] / learned))
            on_progress(len(rows) / len(chosen))
    return Outcome(
        ["algorithm", f"hours for {full_length:,} steps", "ms an action", "steps measured", "device"],
        [[name, f"{hours:.2f}", f"{act:.2f}", f"{steps:,}", str(setting.device)] for name, hours, act in rows],
        save(draw(rows, task.name, full_length), folder / "efficiency"),
    )


def seconds_for(full_length: int, wall: Mapping[str, float], steps: int, learned: int, every: int) -> float:
    """Seconds for `full_length` steps with an evaluation every `every` steps.

    Extrapolated from the times by part of a run of `steps` steps with one evaluation. Updates, batches and the policy's
    actions happen only in the `learned` steps after the random phase.
    """
    per_step = sum(
        seconds / (learned if part in LEARNING else steps) for part, seconds in wall.items() if part != "evaluation"
    )
    return full_length * per_step + full_length / every * wall["evaluation"]


def draw(rows: Sequence[tuple[str, float, float]], task: str, steps: int) -> Figure:
    """Two panels of points from rows of (algorithm, hours of training, milliseconds per action)."""
    names, hours, acting = zip(*rows, strict=True)
    figure = Figure(figsize=(6.75, 2.2), layout="constrained")
    for panel, values, label in zip(
        figure.subplots(1, 2, sharey=True),
        (hours, acting),
        (f"hours of training, {steps:,} steps of {task}", "milliseconds an action"),
        strict=True,
    ):
        # Points, because the length of a bar means nothing on a logarithmic axis.
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
