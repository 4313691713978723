"""Figures of a report in the widths of a paper's column or page, as SVG, PDF and PNG."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from flowbench.common.errors import UsageError
from flowbench.report.assemble import Report, Section, drawn
from flowbench.report.drawing import FORMATS, Drawing
from flowbench.report.figures import bars, lines
from flowbench.report.figures.style import SETTINGS, Size, Style, styles_of

OF_SECTION: dict[str, Callable[[Section, dict[str, Style], Size], Figure | None]] = {
    "aggregates": bars.aggregates,
    "profiles": lines.profiles,
    "improvement": bars.improvement,
    "efficiency": lines.over_steps,
    "time": lines.over_time,
}


def draw(report: Report, runs: pd.DataFrame, evals: pd.DataFrame, drawing: Drawing) -> list[Path]:
    """Write the figures and return their paths; in a folder, a figure without data is not written.

    The report was built from ``runs`` and ``evals``, which ``flowbench.store.load`` returned. Learning curves go on
    after the reported step. Raises UsageError if a file cannot be written, if a single figure has no data or stands
    for several suites, and if the figures are too small for their text.
    """
    suites = [section.suite for section in report.sections]
    if drawing.files and len(suites) > 1:
        raise UsageError(f"--figure draws one suite: choose it with --suite ({', '.join(suites)})")
    kinds = {kind for kind, _ in drawing.files} | set(drawing.kinds if drawing.folder else ())
    runs, evals = drawn(report, runs, evals)
    styles = styles_of(runs, *(section.table for section in report.sections))
    written = []
    for section in report.sections:
        with mpl.rc_context(SETTINGS):
            figures = dict(_figures(section, runs, evals, styles, report, drawing, kinds))
            for kind, path in drawing.files:
                if kind not in figures:
                    raise UsageError(f"--figure {kind}={path}: {section.suite} has no data for this figure")
                written.append(_write(figures[kind], path, f"--figure {kind}={path}"))
            if drawing.folder is None:
                continue
            for kind in (kind for kind in figures if kind in drawing.kinds):
                for extension in FORMATS:
                    path = drawing.folder / f"{section.suite}-{kind}.{extension}"
                    written.append(_write(figures[kind], path, f"--figures {str(drawing.folder)!r}"))
    return written


def _figures(
    section: Section,
    runs: pd.DataFrame,
    evals: pd.DataFrame,
    styles: dict[str, Style],
    report: Report,
    drawing: Drawing,
    kinds: Collection[str],
) -> Iterator[tuple[str, Figure]]:
    own = runs[runs["suite"] == section.suite]
    styles = {algo: styles[algo] for algo in (*section.algos, *(set(styles) - set(section.algos)))}
    if "curves" in kinds:
        yield (
            "curves",
            lines.learning(
                own,
                evals,
                section.step,
                styles,
                drawing.size,
                reps=report.reps,
                seed=report.seed,
                thin=drawing.thin,
            ),
        )
    for name, make in OF_SECTION.items():
        figure = make(section, styles, drawing.size) if name in kinds else None
        if figure:
            yield name, figure


def _write(figure: Figure, path: Path, option: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="constrained_layout not applied")
            figure.savefig(path)
    except OSError as error:
        raise UsageError(f"{option}: {error.strerror}") from error
    except UserWarning as error:
        width, height = figure.get_size_inches()
        raise UsageError(f"--figure-size: {width:g}x{height:g} inches are too small for {path.name}") from error
    return path
