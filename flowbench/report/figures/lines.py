"""Figures of lines with bands: learning curves, the interquartile mean during training, and performance profiles."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flowbench import stats
from flowbench.common.text_table import wrapped
from flowbench.report.assemble import Section
from flowbench.report.figures.style import COLUMN, PAGE, Size, Style, legend, line, steps_axis

COLUMNS = 3
PANEL_WIDTH, PANEL_HEIGHT = 2.0, 1.55  # inches
UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


def learning(
    runs: pd.DataFrame,
    evals: pd.DataFrame,
    step: int,
    styles: dict[str, Style],
    size: Size = None,
    *,
    reps: int,
    seed: int,
    thin: bool,
) -> Figure:
    """The mean return over the seeds at every step, one panel for each task, of the runs that count at ``step``.

    ``thin`` adds a thin line for each seed, whether its run counts or not.
    """
    curves = stats.task_curves(runs, evals, step, reps=reps, seed=seed)
    tasks = sorted(set(runs["task"]))
    columns = min(len(tasks), max(1, int(size[0] // PANEL_WIDTH)) if size else COLUMNS)
    rows = math.ceil(len(tasks) / columns)
    width = PAGE * (columns / COLUMNS if columns > 1 else 0.5)
    figure = Figure(figsize=size or (width, PANEL_HEIGHT * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    algos = [algo for algo in styles if algo in set(runs["algo"])]
    own = evals.merge(runs[stats.RUN], on=stats.RUN).sort_values("step")
    for place, task in enumerate(tasks):
        panel = panels[place]
        for algo in algos:
            if thin:
                seeds = own[(own["task"] == task) & (own["algo"] == algo)]
                for _, of_seed in seeds.groupby("seed"):
                    mean = of_seed["mean"].where(np.isfinite(of_seed["mean"]))
                    panel.plot(of_seed["step"], mean, color=styles[algo].colour, linewidth=0.4, alpha=0.5)
            line(panel, curves[(curves["task"] == task) & (curves["algo"] == algo)], styles[algo], "step", len(algos))
        panel.set_title(wrapped(task, 34))
        steps_axis(panel)
        if place + columns >= len(tasks):
            panel.set_xlabel("environment steps")
        if place % columns == 0:
            panel.set_ylabel("return")
    for panel in panels[len(tasks) :]:
        panel.set_axis_off()
    legend(figure, [styles[algo] for algo in algos], grow=size is None)
    return figure


def over_steps(section: Section, styles: dict[str, Style], size: Size = None) -> Figure | None:
    """The IQM of normalised scores over environment steps; None if no seed has every task."""
    if section.curves.empty:
        return None
    figure, panel = _drawn(section.curves, styles, size, "step", "environment steps", "IQM of normalised scores")
    panel.set_xlim(left=0)
    steps_axis(panel)
    return figure


def over_time(section: Section, styles: dict[str, Style], size: Size = None) -> Figure | None:
    """The IQM over the wall-clock time of a run (mean over runs); None if no run recorded its time."""
    curves = section.curves.dropna(subset="seconds")
    if curves.empty:
        return None
    length, unit = next(unit for unit in UNITS if curves["seconds"].max() >= unit[0] or unit[0] == 1)
    curves = curves.assign(time=curves["seconds"] / length)
    across = f"wall-clock time of a run ({unit})"
    figure, panel = _drawn(curves, styles, size, "time", across, "IQM of normalised scores")
    panel.set_xlim(left=0)
    return figure


def profiles(section: Section, styles: dict[str, Style], size: Size = None) -> Figure | None:
    """The share of the runs of each algorithm that score above each threshold; None if no seed has every task."""
    if section.profiles.empty:
        return None
    figure, panel = _drawn(section.profiles, styles, size, "threshold", "normalised score (τ)", "share of runs above τ")
    panel.set_ylim(-0.02, 1.02)
    panel.margins(x=0)
    return figure


def _drawn(
    curves: pd.DataFrame, styles: dict[str, Style], size: Size, x: str, across: str, up: str
) -> tuple[Figure, Axes]:
    algos = [algo for algo in styles if algo in set(curves["algo"])]
    figure = Figure(figsize=size or (COLUMN, 2), layout="constrained")
    panel = figure.subplots()
    for algo in algos:
        line(panel, curves[curves["algo"] == algo], styles[algo], x, len(algos))
    panel.set_xlabel(across)
    panel.set_ylabel(up)
    legend(figure, [styles[algo] for algo in algos], grow=size is None)
    return figure, panel
