"""Figures of estimates with intervals as bars: the aggregates, and the probability of improvement of each pair."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from flowbench.common.text_table import wrapped
from flowbench.report.assemble import Section
from flowbench.report.figures.style import COLUMN, PAGE, UNDECIDED, Size, Style, interval, rows_axis
from flowbench.report.tables import LEGEND, is_matrix, matrix, metrics

MINUS = "\N{MINUS SIGN}"
SHADES = LinearSegmentedColormap.from_list("pairs", ("#E69F00", "#F1F1F1", "#56A5DB"))  # worse, not decided, better


def aggregates(section: Section, styles: dict[str, Style], size: Size = None) -> Figure | None:
    """One panel for each aggregate, one row for each algorithm; None if no algorithm has an aggregate."""
    known = section.aggregates.dropna(subset="estimate")
    algos = [algo for algo in styles if algo in set(known["algo"])]
    if not algos:
        return None
    names = [wrapped(styles[algo].name, 24) for algo in algos]
    lines = sum(name.count("\n") + 1 for name in names)
    figure = Figure(figsize=size or (PAGE, 0.65 + 0.2 * lines), layout="constrained")
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


def improvement(section: Section, styles: dict[str, Style], size: Size = None) -> Figure | None:
    """One row for each pair, in the colour of the better algorithm, grey if not decided; None without any pair.

    The pairs of many algorithms are a matrix.
    """
    pairs = section.improvement.dropna(subset="estimate")
    if pairs.empty:
        return None
    if is_matrix(section):
        return _matrix(section, size)
    names = [[wrapped(styles[algo].name, 22) for algo in pairs[side]] for side in ("algo", "over")]
    lines = sum(max(left.count("\n"), right.count("\n")) + 1 for left, right in zip(*names, strict=True))
    figure = Figure(figsize=size or (COLUMN, 0.65 + 0.2 * lines), layout="constrained")
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


def _matrix(section: Section, size: Size) -> Figure:
    """P(row > column) in percent with the sign of the verdict, in colour where the pair is decided."""
    table = matrix(section)
    names = [wrapped(row[0], 26) for row in table.rows]
    lines = max(name.count("\n") + 1 for name in names)
    count = len(names)
    figure = Figure(figsize=size or (PAGE, 0.7 + max(0.15 * lines, 0.3) * count), layout="constrained")
    panel = figure.subplots()
    values = np.array([[_shade(cell) for cell in row[1:]] for row in table.rows])
    panel.imshow(values, cmap=SHADES, vmin=0, vmax=1, aspect="auto")
    for row, (_, *cells) in enumerate(table.rows):
        for column, cell in enumerate(cells):
            panel.text(column, row, cell.replace("-", MINUS), ha="center", va="center", fontsize=6.5)
    panel.set_yticks(range(count), names)
    panel.set_xticks(range(count), table.header[1:])
    panel.xaxis.tick_top()
    panel.tick_params(length=0)
    panel.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    panel.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    panel.grid(visible=False)
    panel.grid(visible=True, which="minor", color="white", linewidth=1, alpha=1)
    panel.tick_params(which="minor", length=0)
    panel.spines[:].set_visible(False)
    figure.supxlabel(
        f"P(row scores higher than column) in percent; the row is\n{LEGEND.replace('-', MINUS)}", fontsize=8
    )
    return figure


def _shade(cell: str) -> float:
    """The place of a cell in the colour map: its probability if it is decided; an empty cell has none."""
    return float(cell[:-1]) / 100 if cell[-1:] in ("+", "-") else (0.5 if cell else math.nan)
