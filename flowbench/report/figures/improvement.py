"""The probability of improvement of every pair, beside the line at one half."""

from __future__ import annotations

from matplotlib.figure import Figure

from flowbench.common.text_table import wrapped
from flowbench.report.assemble import Section
from flowbench.report.figures.style import COLUMN, Look, interval, rows_axis


def draw(section: Section, styles: dict[str, Look]) -> Figure | None:
    """A row a pair in the colour of the one that scores higher more often; None if no pair has a common task."""
    pairs = section.improvement.dropna(subset="estimate")
    if pairs.empty:
        return None
    names = [[wrapped(styles[algo].name, 22) for algo in pairs[side]] for side in ("algo", "over")]
    lines = sum(max(left.count("\n"), right.count("\n")) + 1 for left, right in zip(*names, strict=True))
    figure = Figure(figsize=(COLUMN, 0.65 + 0.2 * lines), layout="constrained")
    panel = figure.subplots()
    panel.axvline(0.5, color="black", linewidth=0.8, linestyle=":")
    for place, pair in enumerate(pairs.to_dict("records")):
        interval(panel, pair, place, styles[pair["algo" if pair["estimate"] >= 0.5 else "over"]])
    panel.set_xlim(-0.03, 1.03)
    panel.set_xlabel("P(left scores above right)")
    rows_axis(panel, names[0])
    other = panel.twinx()
    rows_axis(other, names[1])
    other.spines["right"].set_visible(True)
    return figure
