"""The four aggregates, a panel each: a point an algorithm on the bar of its interval."""

from __future__ import annotations

from matplotlib.figure import Figure

from flowbench.common.text_table import wrapped
from flowbench.report.assemble import Section
from flowbench.report.figures.style import PAGE, Look, interval, rows_axis
from flowbench.stats import METRICS


def draw(section: Section, styles: dict[str, Look]) -> Figure | None:
    """None if no algorithm has an aggregate."""
    known = section.aggregates.dropna(subset="estimate")
    algos = [algo for algo in styles if algo in set(known["algo"])]
    if not algos:
        return None
    names = [wrapped(styles[algo].name, 24) for algo in algos]
    lines = sum(name.count("\n") + 1 for name in names)
    figure = Figure(figsize=(PAGE, 0.65 + 0.2 * lines), layout="constrained")
    panels = figure.subplots(1, len(METRICS), sharey=True)
    for panel, metric in zip(panels, METRICS, strict=True):
        rows = known[known["metric"] == metric].set_index("algo").to_dict("index")
        for place, algo in enumerate(algos):
            interval(panel, rows[algo], place, styles[algo])
        rows_axis(panel, names)
        panel.set_title(metric)
        panel.set_xlabel("lower is better" if metric == "Optimality Gap" else "higher is better")
        panel.use_sticky_edges = False  # a bar ends where its interval does, not where the panel does
        panel.margins(x=0.1)
        panel.locator_params(axis="x", nbins=4)
    return figure
