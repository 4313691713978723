"""The common layout of reports and comparisons in a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from flowbench.common import text_table
from flowbench.common.errors import printable
from flowbench.common.text_table import TextTable, escaped, markdown_items

Left = tuple[tuple[str, str], ...]  # (suite, reason) of suites that are left out


@dataclass(frozen=True)
class Part:
    """What is printed about one suite; the first of the ``lines`` is printed in bold if it is a ``warning``."""

    title: str
    lines: Sequence[str]
    tables: Sequence[TextTable]
    warnings: Sequence[str]
    warning: bool
    verdict: Sequence[str] = ()


def show(parts: Sequence[Part], left_out: str, suites: Left, console: Console) -> None:
    """Print to a terminal; the ``suites`` that are left out come last, under the title ``left_out``."""
    for part in parts:
        console.print()
        console.print(Text(printable(part.title), style="bold"))
        for place, line in enumerate(part.lines):
            console.print(Text(printable(line), style="bold yellow" if part.warning and not place else ""))
        if part.verdict:
            console.print()
        for place, line in enumerate(part.verdict):
            console.print(Text(printable(line), style="bold" if place < 2 else ""))
        for table in part.tables:
            text_table.show(table, console)
        text_table.show_items("Warnings", part.warnings, console)
    text_table.show_items(left_out, [f"{suite}: {reason}" for suite, reason in suites], console)


def markdown(parts: Sequence[Part], left_out: str, suites: Left) -> str:
    """The same as Markdown."""
    blocks = []
    for part in parts:
        lines = [escaped(line) for line in part.lines]
        blocks += [f"## {escaped(part.title)}", *([f"**{lines.pop(0)}**"] if part.warning else []), *lines]
        blocks += ["\n".join(f"- {escaped(line)}" for line in part.verdict)] if part.verdict else []
        blocks += map(text_table.markdown, part.tables)
        blocks += markdown_items("### Warnings", part.warnings)
    blocks += markdown_items(f"## {left_out}", [f"{suite}: {reason}" for suite, reason in suites])
    return "\n\n".join(blocks) + "\n"
