"""Figures of estimates with intervals as bars: the aggregates, and the probability of improvement of each pair."""

from __future__ import annotations

from matplotlib.figure import Figure

from flowbench.common.text_table import wrapped
from flowbench.report.assemble import Section
from flowbench.report.figures.style import COLUMN, PAGE, UNDECIDED, Style, interval, rows_axis
from flowbench.report.tables import metrics


def aggregates(section: Section, styles: dict[str, Style]) -> Figure | None:
    """One panel for each aggregate, one row for each algorithm; None if no algorithm has an aggregate."""
    known = section.aggregates.dropna(subset="estimate")
    algos = [algo for algo in styles if algo in set(known["algo"])]
    if not algos:
        return None
    names = [wrapped(styles[algo].name, 24) for algo in algos]
    lines = sum(name.count("\n") + 1 for name in names)
    figure = Figure(figsize=(PAGE, 0.65 + 0.2 * lines), layout="constrained")
    shown = metrics(section)
    panels = figure.subplots(1, len(shown), sharey=True)
    for panel, metric in zip(panels, shown, strict=True):
        rows = known[known["metric"] == metric].set_index("algo").to_dict("index")
        for place, algo in enumerate(algos):
            interval(panel, rows[algo], place, styles[algo])
        rows_axis(panel, names)
        panel.set_title(metric)
        panel.set_xlabel("lower is better" if metric == "Optimality Gap" else "higher is better")
        panel.use_sticky_edges = False  # leave a margin beyond the end of a bar
        panel.margins(x=0.1)
        panel.locator_params(axis="x", nbins=4)
    return figure


def improvement(section: Section, styles: dict[str, Style]) -> Figure | None:
    """One row for each pair, in the colour of the better algorithm, grey if not decided; None without any pair."""
    pairs = section.improvement.dropna(subset="estimate")
    if pairs.empty:
        return None
    names = [[wrapped(styles[algo].name, 22) for algo in pairs[side]] for side in ("algo", "over")]
    lines = sum(max(left.count("\n"), right.count("\n")) + 1 for left, right in zip(*names, strict=True))
    figure = Figure(figsize=(COLUMN, 0.65 + 0.2 * lines), layout="constrained")
    panel = figure.subplots()
    panel.axvline(0.5, color="black", linewidth=0.8, linestyle=":")
    for place, pair in enumerate(pairs.to_dict("records")):
        better = {"better": pair["algo"], "worse": pair["over"]}.get(pair["verdict"])
        interval(panel, pair, place, styles[better] if better else UNDECIDED)
    panel.set_xlim(-0.03, 1.03)
    panel.set_xlabel("P(left scores higher than right)")
    rows_axis(panel, names[0])
    other = panel.twinx()
    rows_axis(other, names[1])
    other.spines["right"].set_visible(True)
    return figure
