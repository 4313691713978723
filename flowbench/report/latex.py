"""A report as LaTeX tables for a paper, with booktabs rules and the best values in bold."""

from __future__ import annotations

import re

from flowbench.common.errors import printable
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
    caption = f"{section.suite}, step {section.step:,}. {table.title}."
    if table.best:
        what, where = (
            "mean return",
            "on the task (exact Mann-Whitney test, Holm's correction for the tasks of each pair)",
        )
        if table.header[0] == "algorithm":
            what, where = "IQM", f"over the tasks ({tables.TEST}, {tables.correction(section)})"
        caption += (
            f" Bold: of the algorithms with enough seeds for a verdict, the highest {what} and those that are not "
            f"found worse {where}, p <= 0.05."
        )
    if number == 1:
        caption = " ".join([caption, *(f"{text}." for text in tables.settings(section))])
    body = [
        [_cell(text, bold=(row, column) in table.best) for column, text in enumerate(cells)]
        for row, cells in enumerate(table.rows)
    ]
    return "\n".join(
        [
            r"\begin{table*}",
            r"  \centering\small\setlength{\tabcolsep}{4pt}",
            f"  \\caption{{{escaped(caption)}}}",
            f"  \\label{{tab:{re.sub(r'[^A-Za-z0-9-]+', '-', section.suite)}-{number}}}",
            f"  \\begin{{tabular}}{{l{('r' if table.numbers else 'l') * (len(table.header) - 1)}}}",
            r"    \toprule",
            f"    {' & '.join(map(escaped, table.header))} \\\\",
            r"    \midrule",
            *(f"    {' & '.join(row)} \\\\" for row in body),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table*}",
        ]
    )


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
