"""Figures of a report: learning curves, a panel a task."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from flowbench.stats import is_published

# Okabe and Ito's palette, which readers with any common colour blindness can tell apart.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
PANEL_INCHES = (3.0, 2.3)
FORMATS = ("svg", "png")


def save(evals: pd.DataFrame, folder: Path) -> list[Path]:
    """Write each suite's learning curves to `folder` as SVG and PNG; the paths written.

    `evals` are the evaluations of `flowbench.store.load`, with distinct labels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for suite, of_suite in evals.groupby("suite", sort=True):
        figure = learning_curves(of_suite, str(suite))
        for extension in FORMATS:
            path = folder / f"{suite}-curves.{extension}"
            figure.savefig(path, dpi=150)
            written.append(path)
    return written


def learning_curves(evals: pd.DataFrame, title: str) -> Figure:
    """Evaluation return against environment steps: each seed a thin line, their mean a thick one.

    The mean is drawn only where every seed of the algorithm has an evaluation.
    """
    tasks = sorted(set(evals["task"]))
    columns = min(3, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    size = (PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    colours = {algo: PALETTE[k % len(PALETTE)] for k, algo in enumerate(sorted(set(evals["algo"])))}
    styles = {str(algo): "--" if is_published(own).any() else "-" for algo, own in evals.groupby("algo")}
    for panel, task in zip(panels, tasks, strict=False):
        for algo, colour in colours.items():
            own = evals[(evals["task"] == task) & (evals["algo"] == algo)]
            curves = own.pivot_table(index="step", columns="seed", values="mean")
            style = styles[algo]
            panel.plot(curves.index, curves.to_numpy(), color=colour, linestyle=style, linewidth=0.6, alpha=0.4)
            mean = curves.mean(axis="columns", skipna=False)
            panel.plot(mean.index, mean, color=colour, linestyle=style, linewidth=1.8, label=algo)
        panel.set_title(task, fontsize=9)
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.tick_params(labelsize=7)
        panel.grid(linewidth=0.3, alpha=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    for place, panel in enumerate(panels[: len(tasks)]):
        if place + columns >= len(tasks):
            panel.set_xlabel("environment steps", fontsize=8)
        if place % columns == 0:
            panel.set_ylabel("evaluation return", fontsize=8)
    for panel in panels[len(tasks) :]:
        panel.set_axis_off()
    seeds = sorted({len(set(of_algo["seed"])) for _, of_algo in evals.groupby("algo")})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    spoken = "1 seed" if seeds == [1] else f"{count} seeds (thin), their mean (thick)"
    figure.suptitle(f"{title}: {spoken}", fontsize=9)
    handles = [
        panels[0].plot([], [], color=colour, linestyle=styles[algo], linewidth=1.8)[0]
        for algo, colour in colours.items()
    ]
    figure.legend(
        handles, list(colours), loc="outside lower center", ncols=min(4, len(colours)), fontsize=8, frameon=False
    )
    return figure
