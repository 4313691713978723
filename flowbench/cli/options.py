"""Shared by the commands: options, the conversion of their values, and the output of lists."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="The folder with the results of all runs.")]
RESULTS = Path("results")
ResampleSeed = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, max=2**32 - 1, help="The seed of the bootstrap resampling.")
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Stop if runs differ in steps, evaluation, action repeat, score bounds, device, precision, mujoco, "
        "dm_control or the code of an algorithm.",
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="NAME=LABEL",
        help='Show an algorithm under this name, such as "flowrl\\[tau=0.05]=FlowRL"; may be repeated.',
    ),
]


def count(option: str, text: str | None, least: int = 1, most: int = 2**53) -> int | None:
    """A whole number from `least` to `most`, also written 1e6 or 1_000_000; None stays None."""
    from flowbench.common.numbers import whole

    return whole(option, text, least, most)


def named(suite: list[str] | None, algo: list[str] | None) -> tuple[list[str], list[str]]:
    """The names in --suite and --algo, written as for `run`: also a path of a suite file, also "sac,td3"."""
    from flowbench.plan.request import selected

    return selected(suite or [], algo or [])


def table(columns: list[str], rows: list[list[str]]) -> None:
    """Print a list as a table."""
    from rich import box
    from rich.table import Table

    from flowbench.common.errors import printable

    headers = [escape(printable(column)) for column in columns]
    table = Table(*headers, box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.overflow = "fold"
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    Console().print(table)


def warn(problems: list[Any]) -> None:
    """Print to standard error what could not be read."""
    from flowbench.common.errors import printable

    for problem in problems:
        print(printable(f"flowbench: left out: {problem}"), file=sys.stderr)
