"""A report as LaTeX tables for a paper, with booktabs rules and the best values in bold."""

from __future__ import annotations

import re

from flowbench.common.errors import printable
from flowbench.common.text_table import WIDE, TextTable, upright
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
    """One table environment for each table; headings and warnings are comments."""
    blocks = ["% \\usepackage{booktabs}"]
    for section in report.sections:
        lines = tables.heading(section, report.reps)
        blocks.append(_comments([section.suite, *lines, *(f"Warning: {text}" for text in section.warnings)]))
        shown = tables.tables(section, pairs_per_task=report.pairs_per_task)
        gaps = tables.missing(section)
        shown += [gaps] if gaps.rows else []
        blocks += [_table(table, section, number) for number, table in enumerate(shown, 1)]
    if report.skipped:
        blocks.append(_comments([f"No report: {suite}: {reason}" for suite, reason in report.skipped]))
    return "\n\n".join(blocks) + "\n"


def escaped(text: str) -> str:
    """``text`` on one line, with the special characters of LaTeX escaped."""
    return "".join(SPECIAL.get(character, character) for character in printable(" ".join(text.split())))


def _table(table: TextTable, section: Section, number: int) -> str:
    table = upright(table)
    caption = f"{section.suite}, step {section.step:,}. {table.title}."
    if table.best:
        what, where = "IQM", f"over the tasks ({tables.TEST}, {tables.correction(section)})"
        if table.across:  # a table of the tasks
            what = "mean return"
            where = "on the task (exact Mann-Whitney test, Holm's correction for the tasks of each pair)"
        best = f"the highest {what} and those that are not found worse"
        best = f"of the algorithms with enough seeds for a verdict, {best}"
        if section.baseline:
            best = f"those that are found better than {section.baseline}"
        caption += f" Bold: {best} {where}, p <= 0.05."
    if number == 1:
        caption = " ".join([caption, *(f"{text}." for text in tables.settings(section))])
    most = len(table.header) if table.colours or not table.numbers else WIDE
    parts = [_tabular(table, range(first, first + most)) for first in range(1, len(table.header), most)]
    return "\n".join(
        [
            r"\begin{table*}",
            r"  \centering\small\setlength{\tabcolsep}{4pt}",
            f"  \\caption{{{escaped(caption)}}}",
            f"  \\label{{tab:{re.sub(r'[^A-Za-z0-9-]+', '-', section.suite)}-{number}}}",
            "\n  \\par\\medskip\n".join(parts),
            r"\end{table*}",
        ]
    )


def _tabular(table: TextTable, columns: range) -> str:
    """The names of the rows and some columns."""
    chosen = [0, *(column for column in columns if column < len(table.header))]
    lines = [[escaped(table.header[column]) for column in chosen]]
    for row, cells in enumerate(table.rows):
        lines.append([_cell(cells[column], bold=(row, column) in table.best) for column in chosen])
    head, *body = (f"    {' & '.join(line)} \\\\" for line in lines)
    layout = "l" + ("r" if table.numbers else "l") * (len(chosen) - 1)
    rules = [r"    \toprule", head, r"    \midrule", *body, r"    \bottomrule"]
    return "\n".join([f"  \\begin{{tabular}}{{{layout}}}", *rules, r"  \end{tabular}"])


def _cell(text: str, *, bold: bool) -> str:
    """A table cell; intervals are set smaller than estimates, so that six algorithms fit the width of a page."""
    found = re.fullmatch(r"(-?[\d.]+) (\[[^\]]*\])(.*)", text)
    if not found:
        return escaped(text)
    estimate, interval, rest = found.groups()
    estimate = f"\\textbf{{{estimate}}}" if bold else estimate
    return f"{estimate} {{\\scriptsize {interval}}} {escaped(rest)}".rstrip()


def _comments(lines: list[str]) -> str:
    return "\n".join(f"% {printable(' '.join(line.split()))}" for line in lines)
