"""`flowbench import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowbench.cli.app import app
from flowbench.cli.options import RESULTS, Results, table, warn


@app.command("import", epilog="Example: flowbench import csv curves.csv --suite quick")
def import_(
    format: Annotated[str, typer.Argument(metavar="tdmpc2|simbav2|humanoidbench|csv", help="Format of the files.")],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, or a folder of files.")],
    algo_prefix: Annotated[
        str | None,
        typer.Option("--algo-prefix", metavar="TEXT", help="Prefix of the algorithms' names. Default: published-."),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(metavar="SUITE", help="Suite of the tasks. Default: every suite that has them."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace curves that were imported from other files.")
    ] = False,
    results: Results = RESULTS,
) -> None:
    """Import published learning curves into the results folder, so that reports show them next to our runs."""
    from flowbench.common.errors import UsageError
    from flowbench.common.text_table import plural
    from flowbench.interop import importing

    prefix = importing.PREFIX if algo_prefix is None else algo_prefix
    found = importing.import_curves(format, path, results, prefix=prefix, suite=suite, replace=replace)
    warn(found.left_out)
    if not found.runs:
        raise UsageError(f"{path}: contains nothing that could be imported")
    table(["algorithm", "suite", "tasks", "curves", "last step"], importing.summary(found))
    if found.removed:
        print(f"removed {plural(len(found.removed), 'curve')} of an earlier version of the file")
