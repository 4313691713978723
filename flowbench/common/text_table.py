"""A table of text: how numbers are written in it, how a terminal shows it, how Markdown does."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

LABEL = 22  # a label longer than this is broken over several lines, so that it widens no column of numbers
NOTHING = "-"


@dataclass(frozen=True)
class TextTable:
    """A titled table of text; the first column names the rows, the others hold ``numbers`` or words.

    ``best`` are the (row, column) of cells that are best in their comparison, or cannot be told from the best.
    ``styles`` are those of words in a terminal.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: bool = True
    best: frozenset[tuple[int, int]] = frozenset()
    styles: Mapping[str, str] = field(default_factory=dict)


def interval(estimate: float, low: float, high: float, *, digits: int) -> str:
    """``0.412 [0.350, 0.470]``; a hyphen stands for what there is not."""
    if math.isnan(estimate):
        return NOTHING
    ends = f"{number(low, digits)}, {number(high, digits)}" if not math.isnan(low) else NOTHING
    return f"{number(estimate, digits)} [{ends}]"


def number(value: float, digits: int) -> str:
    """Rounded, and never ``-0.0``."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def p_value(value: float, equal: str = "") -> str:
    """``0.012``, or ``<0.001``; with ``equal`` as it stands in a sentence, ``= 0.012`` or ``< 0.001``."""
    if value < 0.001:
        return f"{'< ' if equal else '<'}0.001"
    digits = 4 if abs(value - 0.05) < 0.0005 else 3  # 0.0503 is not decided, which 0.050 would not tell
    return f"{equal}{value:.{digits}f}"


def ranges(numbers: Iterable[int]) -> str:
    """``0-2, 5`` for 0, 1, 2, 5."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def plural(number: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def show(grid: TextTable, console: Console) -> None:
    """Print the grid to a terminal; one too wide for it becomes several, so that no number is cut."""
    console.print(Text(f"\n{grid.title}", style="bold" if grid.rows else "dim"))
    if grid.rows:
        for place, table in enumerate(_fit(grid, console)):
            if place:
                console.print()
            console.print(table)


def show_items(title: str, items: Sequence[str], console: Console) -> None:
    """Print a bulleted list; nothing if it is empty."""
    if items:
        console.print(Text(f"\n{title}", style="bold"))
    for text in items:
        console.print(_item(text))


def markdown(grid: TextTable) -> str:
    """The grid under a heading, as a Markdown table."""
    heading = f"### {escaped(grid.title)}"
    if not grid.rows:
        return heading
    rows = [[escaped(cell) for cell in row] for row in (grid.header, *grid.rows)]
    rows.insert(1, ["---"] * len(grid.header))
    return heading + "\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def markdown_items(heading: str, items: Sequence[str]) -> list[str]:
    """A heading and a bulleted list, a block each; nothing if it is empty."""
    return [heading, "\n".join(f"- {escaped(item)}" for item in items)] if items else []


def escaped(text: str) -> str:
    """``text`` on one line, with nothing in it that Markdown or HTML would act on."""
    return re.sub(r"([\\`*_\[\]<>|#~&])", r"\\\1", " ".join(text.split()))


def _fit(grid: TextTable, console: Console) -> list[Table]:
    """The grid's columns in as few tables as fit the console; a single column wider than that folds, uncut."""
    if not grid.numbers:  # words fold
        return [_table(grid, range(len(grid.header)))]
    unlimited = console.options.update(width=10**6)  # or rich measures a table as no wider than the console
    parts: list[list[int]] = [[]]
    for column in range(1, len(grid.header)):
        wider = _table(grid, [0, *parts[-1], column])
        if parts[-1] and Measurement.get(console, unlimited, wider).maximum > console.width:
            parts.append([])
        parts[-1].append(column)
    return [_table(grid, [0, *part]) for part in parts]


def _table(grid: TextTable, columns: Sequence[int]) -> Table:
    """Some columns of a grid. Cells are Text, not markup: rich would take ``[flow_steps=5]`` for a style."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="")
    for place, column in enumerate(columns):
        title = Text(broken(grid.header[column]), style="bold")
        table.add_column(title, justify="right" if grid.numbers and place > 0 else "left", overflow="fold")
    for row in grid.rows:
        cells = [Text(broken(row[c]) if c == 0 else row[c]) for c in columns]
        for cell in cells[1:]:
            for word, style in grid.styles.items():
                cell.highlight_words([word], style)
        table.add_row(*cells)
    return table


def broken(label: str, width: int = LABEL) -> str:
    """A label in lines of at most ``width`` characters, broken after a comma, bracket, hash or space if it can be."""
    lines = [""]
    for piece in re.findall(r"[^,\[# ]*[,\[# ]?", label):
        if len(lines[-1]) + len(piece.rstrip()) > width and lines[-1]:
            lines.append("")
        lines[-1] += piece
    return "\n".join(
        line[i : i + width].rstrip() for line in map(str.rstrip, lines) for i in range(0, max(len(line), 1), width)
    )


def _item(text: str) -> Table:
    """A bulleted paragraph whose later lines stand under its first."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("-", Text(text))
    return table
