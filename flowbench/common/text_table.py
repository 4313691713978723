"""Tables of text, printed to a terminal or as Markdown, and how numbers are written in them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from flowbench.common.errors import printable

LABEL = 22  # characters; a longer label is wrapped, so that it does not widen its column
WIDE = 6  # columns of numbers with intervals; more do not fit the width of a page
NOTHING = "-"


@dataclass(frozen=True)
class TextTable:
    """A table of text with a title. The first column names the rows; the others hold numbers, or words.

    ``best`` are the (row, column) of cells that are best in their comparison, or not clearly different from the best.
    ``styles`` maps words to their style in a terminal. A table of numbers may be transposed if ``across`` says what its
    columns are. ``colours`` are the styles of whole cells; such a table is a matrix with narrow columns.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: bool = True
    best: frozenset[tuple[int, int]] = frozenset()
    styles: Mapping[str, str] = field(default_factory=dict)
    across: str = ""
    colours: Mapping[tuple[int, int], str] = field(default_factory=dict)

    def transposed(self) -> TextTable:
        """The table with its rows as columns."""
        rows = zip(self.header[1:], *(row[1:] for row in self.rows), strict=True)
        best = frozenset((column - 1, row + 1) for row, column in self.best)
        header = (self.across, *(row[0] for row in self.rows))
        return replace(self, header=header, rows=tuple(rows), best=best, across=self.header[0])


def interval(estimate: float, low: float, high: float, *, digits: int) -> str:
    """``0.412 [0.350, 0.470]``; a hyphen stands for a missing value."""
    if math.isnan(estimate):
        return NOTHING
    ends = f"{number(low, digits)}, {number(high, digits)}" if not math.isnan(low) else NOTHING
    return f"{number(estimate, digits)} [{ends}]"


def number(value: float, digits: int) -> str:
    """The rounded number, never ``-0.0``."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def p_value(value: float, equal: str = "") -> str:
    """``0.012`` or ``<0.001``; for a sentence, with ``equal="= "``, ``= 0.012`` or ``< 0.001``."""
    if value < 0.001:
        return f"{'< ' if equal else '<'}0.001"
    digits = 4 if abs(value - 0.05) < 0.0005 else 3  # 0.0503 is not significant, but 0.050 would look so
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


def show(table: TextTable, console: Console) -> None:
    """Print a table to a terminal. One that is too wide is transposed or split, so that no number is cut."""
    console.print(Text(f"\n{printable(table.title)}", style="bold" if table.rows else "dim"))
    if table.rows:
        parts = _split(table, console)
        if table.across and len(parts) > 1:
            parts = min(parts, _split(table.transposed(), console), key=len)
        for index, part in enumerate(parts):
            if index:
                console.print()
            console.print(part)


def show_items(title: str, items: Sequence[str], console: Console) -> None:
    """Print a bulleted list under a title; nothing if it is empty."""
    if items:
        console.print(Text(f"\n{printable(title)}", style="bold"))
    for text in items:
        console.print(_item(text))


def markdown(table: TextTable) -> str:
    """The table in Markdown, under a heading."""
    table = upright(table)
    heading = f"### {escaped(table.title)}"
    if not table.rows:
        return heading
    rows = [[escaped(cell) for cell in row] for row in (table.header, *table.rows)]
    rows.insert(1, ["---"] * len(table.header))
    return heading + "\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def upright(table: TextTable) -> TextTable:
    """The table for a page of fixed width: transposed if it has too many columns, and more columns than rows."""
    columns = len(table.header) - 1
    return table.transposed() if table.across and columns > max(WIDE, len(table.rows)) else table


def markdown_items(heading: str, items: Sequence[str]) -> list[str]:
    """A heading and a bulleted list, as two blocks; no block if the list is empty."""
    return [heading, "\n".join(f"- {escaped(item)}" for item in items)] if items else []


def escaped(text: str) -> str:
    """``text`` on one line, with the special characters of Markdown and HTML escaped."""
    return re.sub(r"([\\`*_\[\]<>|#~&])", r"\\\1", printable(" ".join(text.split())))


def _split(table: TextTable, console: Console) -> list[Table]:
    """The columns in as few tables as fit the width of the console. A single column that does not fit is wrapped."""
    if not table.numbers:  # words are wrapped
        return [_rich_table(table, range(len(table.header)))]
    unlimited = console.options.update(width=10**6)  # rich limits its measurement to the width of the console
    parts: list[list[int]] = [[]]
    for column in range(1, len(table.header)):
        wider = _rich_table(table, [0, *parts[-1], column])
        if parts[-1] and Measurement.get(console, unlimited, wider).maximum > console.width:
            parts.append([])
        parts[-1].append(column)
    return [_rich_table(table, [0, *part]) for part in parts]


def _rich_table(table: TextTable, columns: Sequence[int]) -> Table:
    """Some columns as a table of rich. Cells are Text, not markup: rich would read ``[flow_steps=5]`` as a style."""
    padding = (0, 0 if table.colours else 1)
    found = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="", padding=padding)
    for index, column in enumerate(columns):
        title = Text(wrapped(printable(table.header[column])), style="bold")
        found.add_column(title, justify="right" if table.numbers and index > 0 else "left", overflow="fold")
    for place, row in enumerate(table.rows):
        texts = [(c, printable(row[c])) for c in columns]
        cells = [Text(text if c else wrapped(text), style=table.colours.get((place, c), "")) for c, text in texts]
        for cell in cells[1:]:
            for word, style in table.styles.items():
                cell.highlight_words([word], style)
        found.add_row(*cells)
    return found


def wrapped(label: str, width: int = LABEL) -> str:
    """A label in lines of at most ``width`` characters. Lines end between words if possible."""
    lines = [""]
    for part in re.findall(r"[^,\[# ]*[,\[# ]?", label):
        # A part that is too long, such as the name of a task, is broken at a hyphen, an underscore or an equals sign.
        for piece in [part] if len(part.rstrip()) <= width else re.findall(r"[^-_=]*[-_=]?", part):
            if len(lines[-1]) + len(piece.rstrip()) > width and lines[-1]:
                lines.append("")
            lines[-1] += piece
    return "\n".join(
        line[i : i + width].rstrip() for line in map(str.rstrip, lines) for i in range(0, max(len(line), 1), width)
    )


def _item(text: str) -> Table:
    """A paragraph with a bullet; all its lines are indented alike."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("-", Text(printable(text)))
    return table
