"""Measurements as a table, as Markdown or as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

FORMATS = ("table", "markdown", "json")

Row = Mapping[str, Any]
Columns = Mapping[str, Callable[[Row], str]]


def _number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, no exponent; "-" for what there is not."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:#.{digits}g}".rstrip(".")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


TEXTS = ("algorithm", "peer", "time goes to")  # columns that are no numbers

UPDATES: Columns = {
    "algorithm": lambda row: str(row["algo"]),
    "seeds": lambda row: str(row["stack"]),
    "update\nms": lambda row: _number(row["update_ms"]),
    "updates\na second": lambda row: _number(row["updates_per_second"]),
    "action\nms": lambda row: _number(row["act_ms"]),
    "floor\nms": lambda row: _number(row["floor_ms"]),
    "of\nfloor": lambda row: _percent(row["of_floor"]),
}
PEERS: Columns = {
    "peer": lambda row: row["peer"] or "-",
    "its\nms": lambda row: _number(row["peer_update_ms"]),
    "peer/\nours": lambda row: _number(row["ratio"]),
}
LOOP: Columns = {
    "algorithm": lambda row: str(row["algo"]),
    "seeds": lambda row: str(row["stack"]),
    "time goes to": lambda row: str(row["what"]),
    "seconds": lambda row: _number(row["seconds"]),
    "ms a step": lambda row: _number(row["ms"]),
    "share": lambda row: _percent(row["share"]),
}


def updates(header: Row, rows: Sequence[Row], format: str) -> str:
    """Times of updates and actions, as one text."""
    limits = header["limits"]
    told = [
        *_about(header),
        f"limits: {_number(limits['square_gflops'])} GFLOP/s in products {limits['square']}, "
        f"{_number(limits['bandwidth_gbs'])} GB/s in {_number(limits['copied_mb'])} MB",
    ]
    columns = {**UPDATES, **PEERS} if any(row["peer"] for row in rows) else UPDATES
    return _json(header, rows) if format == "json" else _text(told, rows, columns, format)


def loops(header: Row, rows: Sequence[Row], format: str) -> str:
    """Where the time of whole runs went, as one text: a line for each thing it went to."""
    told = _about(header)
    for row in rows:
        told.append(
            f"{row['algo']}, {row['stack']} {'seed' if row['stack'] == 1 else 'seeds'}: "
            f"{row['steps']:,} steps of {row['task']} in {_number(row['seconds'])} s, "
            f"{_number(row['steps_per_second'])} steps/s; "
            f"{_percent(row['neither_environment_nor_update'])} neither environment nor update; "
            f"{_number(row['build_seconds'])} s to build"
        )
    parts = [
        {**row, "what": what, "seconds": row["wall"][what], "ms": row["ms_per_step"][what], "share": row["share"][what]}
        for row in rows
        for what in row["wall"]
    ]
    return _json(header, rows) if format == "json" else _text(told, parts, LOOP, format)


def _json(header: Row, rows: Sequence[Row]) -> str:
    return json.dumps({"header": header, "rows": rows}, indent=1, allow_nan=False)


def _text(told: Sequence[str], rows: Sequence[Row], columns: Columns, format: str) -> str:
    """Sentences and a table below them."""
    cells = [[of_row(row) for of_row in columns.values()] for row in rows]
    if format == "markdown":
        names = [name.replace("\n", " ").replace("/ ", "/") for name in columns]
        grid = [names, ["---", *["---:"] * (len(names) - 1)], *cells]
        return "\n\n".join([*told, "\n".join(f"| {' | '.join(row)} |" for row in grid)])
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(
            name,
            justify="left" if name in TEXTS else "right",
            no_wrap=name != "algorithm",
            min_width=9 if name == "algorithm" else None,
        )
    for row in cells:
        table.add_row(*map(escape, row))
    text = io.StringIO()
    Console(file=text, width=Console().width).print(table)
    return "\n".join([*told, *(line.rstrip() for line in text.getvalue().splitlines())]).rstrip("\n")


def _about(header: Row) -> list[str]:
    """What the numbers were measured on."""
    machine, versions = header["machine"], header["versions"]
    where = f"{machine['gpu'] or machine['cpu']}, {machine['threads']} of {machine['cores']} cores"
    software = [f"{name} {versions[name]}" for name in ("flowbench", "torch", "stable_baselines3") if name in versions]
    return [f"{where}, {header['precision']}; {', '.join(software)}; {header['date']}"]
