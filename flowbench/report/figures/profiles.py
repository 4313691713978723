"""Performance profiles: the share of an algorithm's runs that score above each threshold."""

from __future__ import annotations

from matplotlib.figure import Figure

from flowbench.report.assemble import Section
from flowbench.report.figures.style import COLUMN, Look, legend, line


def draw(section: Section, styles: dict[str, Look]) -> Figure | None:
    """None if no algorithm has a seed with every task."""
    algos = [algo for algo in styles if algo in set(section.profiles["algo"])]
    if not algos:
        return None
    figure = Figure(figsize=(COLUMN, 2), layout="constrained")
    panel = figure.subplots()
    for algo in algos:
        line(panel, section.profiles[section.profiles["algo"] == algo], styles[algo], "threshold")
    panel.set_xlabel("normalised score (τ)")
    panel.set_ylabel("share of runs above τ")
    panel.set_ylim(-0.02, 1.02)
    panel.margins(x=0)
    legend(figure, [styles[algo] for algo in algos])
    return figure
