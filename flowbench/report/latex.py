"""A report as LaTeX tables for a paper, ruled by booktabs, with the best of each comparison in bold."""

from __future__ import annotations

import re

from flowbench.common.text_table import TextTable
from flowbench.report import tables
from flowbench.report.assemble import Report, Section

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "$&#_%"},
}


def render(report: Report) -> str:
    """A table environment a table, and as comments what a reader of the numbers must know."""
    blocks = ["% \\usepackage{booktabs}"]
    for section in report.sections:
        lines = tables.heading(section, report.reps)
        blocks.append(_comments([section.suite, *lines, *(f"Warning: {text}" for text in section.warnings)]))
        shown = tables.grids(section, pairs_per_task=report.pairs_per_task)
        gaps = tables.missing(section)
        shown += [gaps] if gaps.rows else []
        blocks += [_table(grid, section, number) for number, grid in enumerate(shown, 1)]
    if report.skipped:
        blocks.append(_comments([f"Nothing to report: {suite}: {reason}" for suite, reason in report.skipped]))
    return "\n\n".join(blocks) + "\n"


def escaped(text: str) -> str:
    """``text`` on one line, with nothing in it that LaTeX would act on."""
    return "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))


def _table(grid: TextTable, section: Section, number: int) -> str:
    caption = f"{section.suite}, step {section.step:,}. {grid.title}."
    if grid.best:
        caption += " Bold: of those with an interval the best, and all whose interval overlaps that of the best."
    body = [
        [_cell(text, bold=(row, column) in grid.best) for column, text in enumerate(cells)]
        for row, cells in enumerate(grid.rows)
    ]
    return "\n".join(
        [
            r"\begin{table*}",
            r"  \centering\small\setlength{\tabcolsep}{4pt}",
            f"  \\caption{{{escaped(caption)}}}",
            f"  \\label{{tab:{re.sub(r'[^A-Za-z0-9-]+', '-', section.suite)}-{number}}}",
            f"  \\begin{{tabular}}{{l{('r' if grid.numbers else 'l') * (len(grid.header) - 1)}}}",
            r"    \toprule",
            f"    {' & '.join(map(escaped, grid.header))} \\\\",
            r"    \midrule",
            *(f"    {' & '.join(row)} \\\\" for row in body),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table*}",
        ]
    )


def _cell(text: str, *, bold: bool) -> str:
    """An interval is set smaller than its estimate, so that six algorithms fit the width of a page."""
    found = re.fullmatch(r"(-?[\d.]+) (\[[^\]]*\])(.*)", text)
    if not found:
        return escaped(text)
    estimate, interval, rest = found.groups()
    estimate = f"\\textbf{{{estimate}}}" if bold else estimate
    return f"{estimate} {{\\scriptsize {interval}}}{escaped(rest)}"


def _comments(lines: list[str]) -> str:
    return "\n".join(f"% {' '.join(line.split())}" for line in lines)
