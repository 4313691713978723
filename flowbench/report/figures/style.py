"""What all figures share: an algorithm's look, sizes and fonts fit for a paper, axes and legends."""

from __future__ import annotations

import math
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

COLUMN, PAGE = 3.25, 6.75  # inches: the width of a paper's column and of its page
# Okabe and Ito's palette, which readers with any common colour blindness can tell apart; its yellow is too pale for a
# line, so grey stands for it.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
DASHES: tuple[Dashes, ...] = ("-", "-.", ":")  # of algorithms that come after the palette's end
PUBLISHED: Dashes = "--"
BAND = 0.18  # opacity of an interval
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
    "pdf.fonttype": 42,  # letters stay letters: journals refuse the default
    "svg.fonttype": "path",
    "svg.hashsalt": "flowbench",  # the same report, the same file
}


@dataclass(frozen=True)
class Look:
    """How an algorithm is drawn in every figure, by its label; published curves are dashed."""

    name: str
    colour: str
    dashes: Dashes


def looks(*frames: pd.DataFrame) -> dict[str, Look]:
    """A look for every algorithm among all runs of all suites, so that none changes from figure to figure.

    They may be in several frames: where a report leaves short runs out, a label may be another in its tables.
    """
    published = {algo for frame in frames for algo in frame.loc[is_published(frame), "algo"]}
    algos = {algo for frame in frames for algo in frame["algo"]}
    found = {}
    for place, algo in enumerate(sorted(algos, key=lambda algo: (algo in published, algo))):
        dashes = PUBLISHED if algo in published else DASHES[place // len(PALETTE) % len(DASHES)]
        found[str(algo)] = Look(str(algo), PALETTE[place % len(PALETTE)], dashes)
    return found


def line(panel: Axes, curve: pd.DataFrame, look: Look, x: str) -> None:
    """An estimate and, where there is one, the band of its interval."""
    panel.plot(curve[x], curve["estimate"], color=look.colour, linestyle=look.dashes, label=look.name)
    panel.fill_between(
        curve[x].to_numpy(dtype=np.float64), curve["low"], curve["high"], color=look.colour, alpha=BAND, linewidth=0
    )


def interval(panel: Axes, row: Mapping[Hashable, Any], place: int, look: Look) -> None:
    """A point on the bar of its interval, hollow if it was published."""
    if not math.isnan(row["low"]):
        width = row["high"] - row["low"]
        panel.barh(place, width, left=row["low"], height=0.5, color=look.colour, alpha=0.35)
    inside = "white" if look.dashes == PUBLISHED else look.colour
    panel.plot(row["estimate"], place, "o", color=look.colour, markerfacecolor=inside)


def rows_axis(panel: Axes, names: Sequence[str]) -> None:
    """A row a name, from the top."""
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.grid(visible=False, axis="y")


def steps_axis(panel: Axes) -> None:
    """Environment steps as 0, 500k, 1M."""
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.locator_params(axis="x", nbins=5)


def legend(figure: Figure, styles: Iterable[Look]) -> None:
    """A legend under the panels, in as many columns as its names leave room for; the figure grows by what it takes."""
    drawn = list(styles)
    handles = [Line2D([], [], color=look.colour, linestyle=look.dashes) for look in drawn]
    names = [wrapped(look.name, 44) for look in drawn]
    longest = max(len(part) for name in names for part in name.splitlines())
    fit = max(1, min(len(drawn), int(figure.get_figwidth() / (0.36 + 0.058 * longest))))
    columns = math.ceil(len(drawn) / math.ceil(len(drawn) / fit))  # rows of one length
    lines = sum(max(name.count("\n") + 1 for name in names[k : k + columns]) for k in range(0, len(names), columns))
    figure.set_figheight(figure.get_figheight() + 0.15 * (lines + 1))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, handlelength=2, columnspacing=1)
