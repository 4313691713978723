"""Formats measurements as a table, as Markdown or as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

FORMATS = ("table", "markdown", "json")

Row = Mapping[str, Any]
Columns = Mapping[str, Callable[[Row], str]]


def number(value: float | None) -> str:
    """Three significant digits without an exponent; "-" if there is no value."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def percent(share: float) -> str:
    """`0.125` as "12.5 %"."""
    return f"{100 * share:.1f} %"


TEXTS = ("algorithm", "part")  # columns that are not numbers

UPDATES: Columns = {
    "algorithm": lambda row: str(row["algo"]),
    "seeds": lambda row: str(row["stack"]),
    "update\nms": lambda row: number(row["update_ms"]),
    "updates\na second": lambda row: number(row["updates_per_second"]),
    "action\nms": lambda row: number(row["act_ms"]),
    "kernels": lambda row: number(row["kernels"]),
}
LOOP: Columns = {
    "algorithm": lambda row: str(row["algo"]),
    "seeds": lambda row: str(row["stack"]),
    "part": lambda row: str(row["part"]),
    "seconds": lambda row: number(row["seconds"]),
    "ms a step": lambda row: number(row["ms"]),
    "share": lambda row: percent(row["share"]),
}


def peer_columns(rows: Sequence[Row]) -> Columns:
    """Two columns for each library that was timed: its milliseconds, and their ratio to ours."""
    columns: dict[str, Callable[[Row], str]] = {}
    for key in dict.fromkeys(key for row in rows for key in row["peers"]):
        columns[f"{key.upper()}\nms"] = partial(_of_peer, key, "update_ms")
        columns[f"{key.upper()}/\nours"] = partial(_of_peer, key, "ratio")
    return columns


def _of_peer(key: str, value: str, row: Row) -> str:
    return number(row["peers"].get(key, {}).get(value))


def updates(header: Row, rows: Sequence[Row], format: str) -> str:
    """Times of updates and actions, as one text."""
    columns = {**UPDATES, **peer_columns(rows)}
    return _json(header, rows) if format == "json" else text([about(header)], rows, columns, format)


def loops(header: Row, rows: Sequence[Row], format: str) -> str:
    """The time of whole training runs, as one text with a line for each part of a run."""
    if format == "json":
        return _json(header, rows)
    summaries = [
        f"{row['algo']}, {row['stack']} {'seed' if row['stack'] == 1 else 'seeds'}: "
        f"{row['steps']:,} steps of {row['task']} in {number(row['seconds'])} s, "
        f"{number(row['steps_per_second'])} steps/s; "
        f"{percent(row['neither_environment_nor_update'])} neither environment nor update; "
        f"{number(row['build_seconds'])} s to build"
        for row in rows
    ]
    parts = [
        {**row, "part": part, "seconds": row["wall"][part], "ms": row["ms_per_step"][part], "share": row["share"][part]}
        for row in rows
        for part in row["wall"]
    ]
    return text([about(header), *summaries], parts, LOOP, format)


def about(header: Row) -> str:
    """The machine, the versions and the date of a measurement, in one line."""
    machine, versions = header["machine"], header["versions"]
    processor = f"{machine['cpu']} ({machine['cpu_generation']})"
    where = f"{machine['gpu'] or processor}, {machine['threads']} of {machine['cores']} cores"
    names = ("flowbench", "torch", "stable_baselines3", "sbx", "jax")
    software = [f"{name} {versions[name]}" for name in names if name in versions]
    return f"{where}, {header['precision']}; {', '.join(software)}; {header['date']}"


def text(lines: Sequence[str], rows: Sequence[Row], columns: Columns, format: str) -> str:
    """Some lines of text and a table below them."""
    cells = [[show(row) for show in columns.values()] for row in rows]
    if format == "markdown":
        names = [name.replace("\n", " ").replace("/ ", "/") for name in columns]
        grid = [names, ["---", *["---:"] * (len(names) - 1)], *cells]
        return "\n\n".join([*lines, "\n".join(f"| {' | '.join(row)} |" for row in grid)])
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        first = name == "algorithm"
        table.add_column(
            name, justify="left" if name in TEXTS else "right", no_wrap=not first, min_width=9 if first else None
        )
    for row in cells:
        table.add_row(*map(escape, row))
    printed = io.StringIO()
    Console(file=printed, width=Console().width).print(table)
    return "\n".join([*lines, *(line.rstrip() for line in printed.getvalue().splitlines())]).rstrip("\n")


def _json(header: Row, rows: Sequence[Row]) -> str:
    return json.dumps({"header": header, "rows": rows}, indent=1, allow_nan=False)
