"""A report for the terminal and as Markdown, LaTeX, CSV and JSON. Every format names what is missing."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pandas as pd
from rich.console import Console

from flowbench.common.csv_cells import cell
from flowbench.common.errors import one_of
from flowbench.report import document, latex, tables
from flowbench.report.assemble import Report, Section
from flowbench.report.document import Left, Part
from flowbench.stats import CONFIDENCE

SCHEMA = 1
LEFT_OUT = "No report"
COLUMNS = (
    "suite", "step", "kind", "task", "algo", "metric", "estimate", "low", "high", "seeds", "tasks", "seed", "note",
    "over", "over_seeds", "threshold", "p", "p_holm", "tests",
)  # fmt: skip
KINDS = {  # the rows of a CSV table: kind, frame of a section, metric
    "improvement": ("improvement", "P(algo > over)"),
    "task-improvement": ("improvement_per_task", "P(algo > over)"),
    "profile": ("profiles", "share above threshold"),
    "curve": ("curves", "IQM"),
}


def show(report: Report, console: Console) -> None:
    """Print the report to a terminal."""
    document.show(_parts(report), LEFT_OUT, report.skipped, console)


def render(report: Report, format: str) -> str:
    """The report as ``markdown``, ``latex``, ``csv`` or ``json``. Raises UsageError for another format."""
    return FORMATS[one_of("format", format, FORMATS)](report)


def _parts(report: Report) -> list[Part]:
    return [
        Part(
            section.suite,
            tables.heading(section, report.reps),
            [*tables.tables(section, pairs_per_task=report.pairs_per_task), tables.missing(section)],
            section.warnings,
            warning=not section.comparable,
        )
        for section in report.sections
    ]


def _markdown(report: Report) -> str:
    return document.markdown(_parts(report), LEFT_OUT, report.skipped)


def _csv(report: Report) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for section in report.sections:
        for row in _rows(section):
            writer.writerow(
                {"suite": cell(section.suite), "step": section.step} | {k: cell(_plain(v)) for k, v in row.items()}
            )
    for suite, reason in report.skipped:
        writer.writerow({"suite": cell(suite), "kind": "warning", "note": cell(reason)})
    return out.getvalue()


def _rows(section: Section) -> Iterator[dict[Any, Any]]:
    """Every number and text of a section, one for each row."""
    for row in section.aggregates.to_dict("records"):
        yield {"kind": "aggregate", **row}
    for line in section.per_task.itertuples():
        head = {"kind": "task", "task": line.task, "algo": line.algo, "seeds": line.seeds}
        yield {**head, "metric": "return", "estimate": line.mean, "low": line.low, "high": line.high}
        yield {**head, "metric": "score", "estimate": line.score, "low": line.score_low, "high": line.score_high}
    for row in section.success.to_dict("records"):
        yield {"kind": "task", "metric": "success", "estimate": row.pop("success"), **row}
    for kind, (name, metric) in KINDS.items():
        frame = getattr(section, name).drop(columns="seconds", errors="ignore").rename(columns={"verdict": "note"})
        for row in frame.to_dict("records"):
            yield {"kind": kind, "metric": metric, **row}
    for gap in section.missing.itertuples():
        note = "; ".join(filter(None, [f"{gap.status}: {gap.reason}", " ".join(str(gap.error).split())]))
        yield {"kind": "missing", "task": gap.task, "algo": gap.algo, "seed": gap.seed, "note": note}
    if not section.comparable:
        yield {"kind": "warning", "note": tables.heading(section, 0)[0]}
    elif section.note:
        yield {"kind": "note", "note": section.note}
    for text in [
        *tables.labels(section),
        *tables.settings(section),
        *([tables.references(section)] if section.published else []),
    ]:
        yield {"kind": "note", "note": text}
    for text in section.warnings:
        yield {"kind": "warning", "note": text}


def content(report: Report) -> dict[str, Any]:
    """Every number and text of the report, in types that JSON has."""
    suites = []
    for section in report.sections:
        own = {field.name: getattr(section, field.name) for field in fields(section)}
        del own["table"], own["differences"]  # the other fields are computed from these
        suites.append({k: records(v) if isinstance(v, pd.DataFrame) else v for k, v in own.items()})
    return envelope(suites, report.reps, report.seed, report.skipped)


def envelope(suites: list[dict[str, Any]], reps: int, seed: int, skipped: Left) -> dict[str, Any]:
    """What the JSON of reports and of comparisons have in common."""
    reasons = [{"suite": suite, "reason": reason} for suite, reason in skipped]
    shared = {"schema": SCHEMA, "confidence": CONFIDENCE, "reps": reps, "seed": seed}
    return {**shared, "suites": suites, "skipped": reasons}


def as_json(content: dict[str, Any]) -> str:
    """The text of a JSON file; fails on NaN."""
    return json.dumps(content, allow_nan=False, ensure_ascii=False, indent=2) + "\n"


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame, in types that JSON has."""
    return [{str(name): _plain(value) for name, value in row.items()} for row in frame.to_dict("records")]


def _plain(value: Any) -> Any:
    """A Python number or text; None for a missing or infinite value, because JSON has no NaN."""
    value = value.item() if hasattr(value, "item") else value
    return None if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)) else value


FORMATS: dict[str, Callable[[Report], str]] = {
    "markdown": _markdown,
    "latex": latex.render,
    "csv": _csv,
    "json": lambda report: as_json(content(report)),
}
