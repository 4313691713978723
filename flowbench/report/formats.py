"""A report as text for other programs and pages: Markdown, LaTeX, CSV, JSON. None leaves out what is missing."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from flowbench.common.errors import one_of
from flowbench.common.text_table import escaped, markdown, markdown_items
from flowbench.report import latex, tables
from flowbench.report.assemble import Report, Section
from flowbench.stats import CONFIDENCE

SCHEMA = 1
COLUMNS = (
    "suite", "step", "kind", "task", "algo", "metric", "estimate", "low", "high", "seeds", "tasks", "seed", "note",
    "over", "over_seeds", "threshold",
)  # fmt: skip


def render(report: Report, format: str) -> str:
    """The report as ``markdown``, ``latex``, ``csv`` or ``json``. Raises UsageError for another format."""
    return FORMATS[one_of("format", format, FORMATS)](report)


def _markdown(report: Report) -> str:
    blocks = []
    for section in report.sections:
        blocks.append(f"## {escaped(section.suite)}")
        lines = [escaped(line) for line in tables.heading(section, report.reps)]
        blocks += lines if section.comparable else [f"**{lines[0]}**", *lines[1:]]
        shown = (*tables.grids(section, pairs_per_task=report.pairs_per_task), tables.missing(section))
        blocks += map(markdown, shown)
        blocks += markdown_items("### Warnings", section.warnings)
    blocks += markdown_items("## Nothing to report", [f"{suite}: {reason}" for suite, reason in report.skipped])
    return "\n\n".join(blocks) + "\n"


def _csv(report: Report) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for section in report.sections:
        for row in _rows(section):
            writer.writerow({"suite": section.suite, "step": section.step} | {k: _plain(v) for k, v in row.items()})
    for suite, reason in report.skipped:
        writer.writerow({"suite": suite, "kind": "warning", "note": reason})
    return out.getvalue()


def _rows(section: Section) -> Iterator[dict[str, Any]]:
    """Every number and text of a section, one a row."""
    for row in section.aggregates.to_dict("records"):
        yield {"kind": "aggregate", **{str(k): v for k, v in row.items()}}
    for line in section.per_task.itertuples():
        head = {"kind": "task", "task": line.task, "algo": line.algo, "seeds": line.seeds}
        yield {**head, "metric": "return", "estimate": line.mean, "low": line.low, "high": line.high}
        yield {**head, "metric": "score", "estimate": line.score, "low": line.score_low, "high": line.score_high}
    for line in section.success.itertuples():
        head = {"kind": "task", "task": line.task, "algo": line.algo, "seeds": line.seeds}
        yield {**head, "metric": "success", "estimate": line.success, "low": line.low, "high": line.high}
    for kind, pairs in (("improvement", section.improvement), ("task-improvement", section.improvement_per_task)):
        for pair in pairs.to_dict("records"):
            note = pair.pop("verdict")
            yield {"kind": kind, "metric": "P(algo > over)", "note": note, **{str(k): v for k, v in pair.items()}}
    for row in section.profiles.to_dict("records"):
        yield {"kind": "profile", "metric": "share above threshold", **{str(k): v for k, v in row.items()}}
    for row in section.curves.drop(columns="seconds").to_dict("records"):
        yield {"kind": "curve", "metric": "IQM", **{str(k): v for k, v in row.items()}}
    gaps = section.missing
    for gap in gaps.itertuples():
        said = [f"{gap.status}: {gap.reason}", " ".join(str(gap.error).split())]
        note = "; ".join(text for text in said if text)
        yield {"kind": "missing", "task": gap.task, "algo": gap.algo, "seed": gap.seed, "note": note}
    if not section.comparable:
        yield {"kind": "warning", "note": tables.heading(section, 0)[0]}
    elif section.note:
        yield {"kind": "note", "note": section.note}
    if section.published:
        yield {"kind": "note", "note": tables.beside(section)}
    for text in section.warnings:
        yield {"kind": "warning", "note": text}


def content(report: Report) -> dict[str, Any]:
    """Every number and text of the report, as JSON takes them."""
    suites = [
        {
            "suite": section.suite,
            "step": section.step,
            "budgets": list(section.budgets),
            "comparable": section.comparable,
            "note": section.note,
            "algos": list(section.algos),
            "published": section.published,
            "tasks": list(section.tasks),
            "seeds": section.seeds,
            "aggregates": records(section.aggregates),
            "per_task": records(section.per_task),
            "success": records(section.success),
            "improvement": records(section.improvement),
            "improvement_per_task": records(section.improvement_per_task),
            "profiles": records(section.profiles),
            "curves": records(section.curves),
            "missing": records(section.missing),
            "warnings": list(section.warnings),
        }
        for section in report.sections
    ]
    return {
        "schema": SCHEMA,
        "confidence": CONFIDENCE,
        "reps": report.reps,
        "seed": report.seed,
        "suites": suites,
        "skipped": [{"suite": suite, "reason": reason} for suite, reason in report.skipped],
    }


def _json(report: Report) -> str:
    return json.dumps(content(report), allow_nan=False, ensure_ascii=False, indent=2) + "\n"


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A frame's rows as JSON takes them."""
    return [{str(name): _plain(value) for name, value in row.items()} for row in frame.to_dict("records")]


def _plain(value: Any) -> Any:
    """A Python number or text, None where there is none: JSON has no NaN."""
    value = value.item() if hasattr(value, "item") else value
    return None if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)) else value


FORMATS: dict[str, Callable[[Report], str]] = {
    "markdown": _markdown,
    "latex": latex.render,
    "csv": _csv,
    "json": _json,
}
