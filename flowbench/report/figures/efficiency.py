"""The IQM of normalised scores while training: over environment steps, and over the hours they took."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flowbench.report.assemble import Section
from flowbench.report.figures.style import COLUMN, Look, legend, line, steps_axis

UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


def over_steps(section: Section, styles: dict[str, Look]) -> Figure | None:
    """None if no algorithm has a seed with every task."""
    if section.curves.empty:
        return None
    figure, panel = _drawn(section.curves, styles, "step")
    panel.set_xlabel("environment steps")
    steps_axis(panel)
    return figure


def over_time(section: Section, styles: dict[str, Look]) -> Figure | None:
    """Against the wall-clock time of a run, the mean over runs; None if no run says how long it took."""
    curves = section.curves.dropna(subset="seconds")
    if curves.empty:
        return None
    size, unit = next(unit for unit in UNITS if curves["seconds"].max() >= unit[0] or unit[0] == 1)
    figure, panel = _drawn(curves.assign(time=curves["seconds"] / size), styles, "time")
    panel.set_xlabel(f"wall-clock time of a run ({unit})")
    return figure


def _drawn(curves: pd.DataFrame, styles: dict[str, Look], x: str) -> tuple[Figure, Axes]:
    algos = [algo for algo in styles if algo in set(curves["algo"])]
    figure = Figure(figsize=(COLUMN, 2), layout="constrained")
    panel = figure.subplots()
    for algo in algos:
        line(panel, curves[curves["algo"] == algo], styles[algo], x)
    panel.set_ylabel("IQM of normalised scores")
    panel.set_xlim(left=0)
    legend(figure, [styles[algo] for algo in algos])
    return figure, panel
