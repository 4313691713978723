"""What all figures share: the style of each algorithm, sizes and fonts for a paper, axes and legends."""

from __future__ import annotations

import math
import zlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from flowbench.common.text_table import wrapped
from flowbench.stats import is_published

Dashes = Literal["-", "--", "-.", ":"]
Size = tuple[float, float] | None  # width and height in inches; None: the size that suits the content

COLUMN, PAGE = 3.25, 6.75  # inches: the widths of a paper's column and page
# The palette of Okabe and Ito, which is safe for all common kinds of colour blindness. Its yellow is too pale for a
# line and is replaced by grey.
PALETTE = ("#0072B2", "#D55E00", "#E69F00", "#000000", "#56B4E9", "#009E73", "#CC79A7", "#7F7F7F")
DASHES: tuple[Dashes, ...] = ("-", "-.", ":")  # the second is for algorithms after the end of the palette, and so on
PUBLISHED: Dashes = "--"
BAND = 0.18  # opacity of an interval; of many curves, whose bands lie on each other, less
SETTINGS: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.3,
    "grid.alpha": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "legend.frameon": False,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # embeds fonts as text: journals reject the default
    "svg.fonttype": "path",
    "svg.hashsalt": "flowbench",  # makes the files of equal reports equal
}


@dataclass(frozen=True)
class Style:
    """How an algorithm is drawn in every figure; published curves are dashed."""

    name: str
    colour: str
    dashes: Dashes


UNDECIDED = Style("undecided", "#9A9A9A", PUBLISHED)  # hollow, unlike an algorithm whose colour is grey


def styles_of(*frames: pd.DataFrame) -> dict[str, Style]:
    """The style of every algorithm among all runs of all suites, so that it is the same in all figures.

    Several frames are needed because an algorithm may have another label in a report that leaves out short runs. The
    colour follows from the label that the algorithm has without ``--label``, so that it does not change with the
    display name, with the order, and as far as possible with the other algorithms. If two want the same colour,
    algorithms without a variant come first.
    """
    published = {algo for frame in frames for algo in frame.loc[is_published(frame), "algo"]}
    labels = {
        str(algo): str(label)
        for frame in frames
        for algo, label in zip(frame["algo"], frame.get("label", frame["algo"]), strict=True)
    }
    found: dict[str, Style] = {}
    free: list[int] = []
    for algo in sorted(labels, key=lambda algo: (algo in published, "[" in labels[algo], labels[algo], algo)):
        dashes = PUBLISHED if algo in published else DASHES[len(found) // len(PALETTE) % len(DASHES)]
        free = free or list(range(len(PALETTE)))
        wanted = (zlib.crc32(labels[algo].encode()) >> 8) % len(PALETTE)
        place = min(free, key=lambda colour: (colour - wanted) % len(PALETTE))
        free.remove(place)
        found[algo] = Style(algo, PALETTE[place], dashes)
    return found


def line(panel: Axes, curve: pd.DataFrame, style: Style, x: str, curves: int) -> None:
    """An estimate with the band of its interval, if it has one; one of so many ``curves``."""
    panel.plot(curve[x], curve["estimate"], color=style.colour, linestyle=style.dashes, label=style.name)
    faint = min(BAND, 5 * BAND / curves)
    panel.fill_between(
        curve[x].to_numpy(dtype=np.float64), curve["low"], curve["high"], color=style.colour, alpha=faint, linewidth=0
    )


def interval(panel: Axes, row: Mapping[Hashable, Any], place: int, style: Style) -> None:
    """A point on the bar of its interval; hollow for published curves."""
    if not math.isnan(row["low"]):
        width = row["high"] - row["low"]
        panel.barh(place, width, left=row["low"], height=0.5, color=style.colour, alpha=0.35)
    inside = "white" if style.dashes == PUBLISHED else style.colour
    panel.plot(row["estimate"], place, "o", color=style.colour, markerfacecolor=inside)


def rows_axis(panel: Axes, names: Sequence[str]) -> None:
    """One row for each name, from top to bottom."""
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.grid(visible=False, axis="y")


def steps_axis(panel: Axes) -> None:
    """Environment steps as 0, 500k, 1M."""
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.locator_params(axis="x", nbins=5)


def legend(figure: Figure, styles: Iterable[Style], *, grow: bool) -> None:
    """A legend below the panels, with as many columns as fit; if asked, the figure grows by the legend's height."""
    drawn = list(styles)
    handles = [Line2D([], [], color=style.colour, linestyle=style.dashes) for style in drawn]
    names = [wrapped(style.name, 44) for style in drawn]
    longest = max(len(part) for name in names for part in name.splitlines())
    fit = max(1, min(len(drawn), int(figure.get_figwidth() / (0.36 + 0.058 * longest))))
    columns = math.ceil(len(drawn) / math.ceil(len(drawn) / fit))  # rows of equal length
    lines = sum(max(name.count("\n") + 1 for name in names[k : k + columns]) for k in range(0, len(names), columns))
    if grow:
        figure.set_figheight(figure.get_figheight() + 0.15 * (lines + 1))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, handlelength=2, columnspacing=1)
