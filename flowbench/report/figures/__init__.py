"""Figures of a report in the widths of a paper's column or page, as SVG, PDF and PNG."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from flowbench.report.assemble import Report, Section, drawn
from flowbench.report.figures import bars, lines
from flowbench.report.figures.style import SETTINGS, Style, styles_of

FORMATS = ("svg", "pdf", "png")
OF_SECTION: dict[str, Callable[[Section, dict[str, Style]], Figure | None]] = {
    "aggregates": bars.aggregates,
    "profiles": lines.profiles,
    "improvement": bars.improvement,
    "efficiency": lines.over_steps,
    "time": lines.over_time,
}
KINDS = ("curves", *OF_SECTION)


def save(
    report: Report,
    runs: pd.DataFrame,
    evals: pd.DataFrame,
    folder: Path,
    *,
    kinds: Collection[str] = KINDS,
    thin: bool = False,
) -> list[Path]:
    """Write the figures of these kinds to ``folder`` and return their paths; a figure without data is not written.

    The report was built from ``runs`` and ``evals``, which ``flowbench.store.load`` returned. Learning curves go on
    after the reported step. ``thin`` adds a thin line for each seed. Raises OSError if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    runs, evals = drawn(runs, evals)
    styles = styles_of(runs, *(section.table for section in report.sections))
    written = []
    with mpl.rc_context(SETTINGS):
        for section in report.sections:
            for name, figure in _figures(section, runs, evals, styles, report, thin):
                if name not in kinds:
                    continue
                for extension in FORMATS:
                    path = folder / f"{section.suite}-{name}.{extension}"
                    figure.savefig(path)
                    written.append(path)
    return written


def _figures(
    section: Section, runs: pd.DataFrame, evals: pd.DataFrame, styles: dict[str, Style], report: Report, thin: bool
) -> Iterator[tuple[str, Figure]]:
    own = runs[runs["suite"] == section.suite]
    yield "curves", lines.learning(own, evals, section.step, styles, reps=report.reps, seed=report.seed, thin=thin)
    for name, draw in OF_SECTION.items():
        figure = draw(section, styles)
        if figure:
            yield name, figure
