"""Learning curves, a panel a task: the mean return over the seeds at every step, with the band of its interval."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from flowbench import stats
from flowbench.common.text_table import wrapped
from flowbench.report.figures.style import PAGE, Look, legend, line, steps_axis

COLUMNS = 3
PANEL_HEIGHT = 1.55


def draw(
    runs: pd.DataFrame, evals: pd.DataFrame, step: int, styles: dict[str, Look], *, reps: int, seed: int, thin: bool
) -> Figure:
    """Evaluation return against environment steps of one suite's runs, those that count at ``step``.

    With ``thin`` a thin line a seed, too, whether it counts or not.
    """
    curves = stats.task_curves(runs, evals, step, reps=reps, seed=seed)
    tasks = sorted(set(runs["task"]))
    columns = min(COLUMNS, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    width = PAGE * (columns / COLUMNS if columns > 1 else 0.5)
    figure = Figure(figsize=(width, PANEL_HEIGHT * rows), layout="constrained")
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
            line(panel, curves[(curves["task"] == task) & (curves["algo"] == algo)], styles[algo], "step")
        panel.set_title(wrapped(task, 34))
        steps_axis(panel)
        if place + columns >= len(tasks):
            panel.set_xlabel("environment steps")
        if place % columns == 0:
            panel.set_ylabel("return")
    for panel in panels[len(tasks) :]:
        panel.set_axis_off()
    legend(figure, [styles[algo] for algo in algos])
    return figure
