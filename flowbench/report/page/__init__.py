"""A report as one HTML file for a browser. The page loads no other file and needs no network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

import flowbench
from flowbench import stats
from flowbench.common.text_table import ranges
from flowbench.report import coverage, formats, tables
from flowbench.report.assemble import Report, Section, drawn
from flowbench.report.figures.style import styles_of
from flowbench.report.page import verdict
from flowbench.store import records

DIGITS = 6  # of a number in a learning curve; all other numbers are written in full


def render(report: Report, runs: pd.DataFrame, evals: pd.DataFrame) -> str:
    """The page of a report that was built from ``runs`` and ``evals``, the frames of ``flowbench.store.load``."""
    script = _part("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(_part("page.html")).substitute(
        title=html.escape(f"flowbench: {', '.join(section.suite for section in report.sections)}"),
        style=_part("page.css"),
        script=script,
        digest=f"sha256-{digest}",  # the browser runs no other script
        data=embedded(_content(report, runs, evals)),
    )


def embedded(content: Any) -> str:
    """JSON that is safe in a script element: it cannot close the element or open a comment."""
    return json.dumps(_finite(content), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    """``value`` with None for NaN and infinity, which JSON does not have; an edited run.json may contain them."""
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _part(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _content(report: Report, runs: pd.DataFrame, evals: pd.DataFrame) -> dict[str, Any]:
    runs, evals = drawn(report, runs, evals)
    styles = styles_of(runs, *(section.table for section in report.sections))
    return {
        "version": flowbench.__version__,
        "report": formats.content(report),
        "styles": [{"algo": algo, "colour": own.colour, "dashes": own.dashes} for algo, own in styles.items()],
        "sections": [
            _section(section, runs[runs["suite"] == section.suite], evals, report) for section in report.sections
        ],
    }


def _section(section: Section, runs: pd.DataFrame, evals: pd.DataFrame, report: Report) -> dict[str, Any]:
    curves = stats.task_curves(runs, evals, section.step, reps=report.reps, seed=report.seed)
    gaps = tables.missing(section)
    ours = runs[~stats.is_published(runs)]
    return {
        "heading": tables.facts(section, report.reps),
        "settings": [*tables.labels(section), *tables.settings(section)],
        "verdict": verdict.sentences(section),
        "method": verdict.method(section),
        "matrix": tables.is_matrix(section),
        "curves": [_curve(own) for _, own in curves.groupby(["task", "algo"])],
        "coverage": _covered(ours),
        "missing": {"title": gaps.title, "header": gaps.header, "rows": gaps.rows},
        "runs": [_run(run) for run in runs.to_dict("records")],
    }


def _curve(own: pd.DataFrame) -> dict[str, Any]:
    numbers = {name: [float(f"{value:.{DIGITS}g}") for value in own[name]] for name in ("estimate", "low", "high")}
    return {"task": own["task"].iloc[0], "algo": own["algo"].iloc[0], "x": own["step"].tolist(), **numbers}


def _covered(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """The number of seeds with each status, for each task and algorithm."""
    rows = []
    for row in coverage.matrix(runs).to_dict("records"):
        of_status = [(status, row[status]) for status in coverage.STYLES if row[status]]
        seeds = [{"status": status, "count": len(own), "which": ranges(own)} for status, own in of_status]
        rows.append({"task": row["task"], "algo": row["algo"], "seeds": seeds})
    return rows


def _run(run: dict[Any, Any]) -> dict[str, Any]:
    folder = Path(run["folder"])
    record = records.read_if_valid(folder)
    cell = {name: run[name] for name in ("algo", "task", "seed", "status")}
    return {**cell, "folder": "/".join(folder.parts[-5:]), "record": record.to_builtins() if record else {}}
