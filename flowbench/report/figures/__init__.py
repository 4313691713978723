"""Figures of a report, for a paper's column or page: SVG, PDF and PNG."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from flowbench.report.assemble import Report, Section, drawn
from flowbench.report.figures import aggregates, efficiency, improvement, learning, profiles
from flowbench.report.figures.style import SETTINGS, Look, looks

FORMATS = ("svg", "pdf", "png")
OF_SECTION: dict[str, Callable[[Section, dict[str, Look]], Figure | None]] = {
    "aggregates": aggregates.draw,
    "profiles": profiles.draw,
    "improvement": improvement.draw,
    "efficiency": efficiency.over_steps,
    "time": efficiency.over_time,
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
    """Write every figure of these kinds that there is something to draw of to ``folder``; the paths written.

    ``runs`` and ``evals`` are those of ``flowbench.store.load`` that the report was built of; their learning curves are
    drawn to the end, beyond the step reported. ``thin`` adds a thin line a seed. Raises OSError if nothing can be
    written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    runs, evals = drawn(runs, evals)
    styles = looks(runs, *(section.table for section in report.sections))
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
    section: Section, runs: pd.DataFrame, evals: pd.DataFrame, styles: dict[str, Look], report: Report, thin: bool
) -> Iterator[tuple[str, Figure]]:
    of_suite = runs["suite"] == section.suite
    options: dict[str, Any] = {"reps": report.reps, "seed": report.seed, "thin": thin}
    yield "curves", learning.draw(runs[of_suite], evals, section.step, styles, **options)
    for name, draw in OF_SECTION.items():
        figure = draw(section, styles)
        if figure:
            yield name, figure
