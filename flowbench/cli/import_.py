"""`flowbench import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowbench.cli.app import app
from flowbench.cli.options import RESULTS, Results, table, warn


@app.command("import", epilog="Example: flowbench import csv curves.csv --suite quick")
def import_(
    format: Annotated[str, typer.Argument(metavar="tdmpc2|simbav2|humanoidbench|csv", help="Whose files they are.")],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, or a folder of files.")],
    algo_prefix: Annotated[
        str | None,
        typer.Option("--algo-prefix", metavar="TEXT", help="Put before algorithms' names; published- if left out."),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(metavar="SUITE", help="Where the tasks belong; every suite that has them, if left out."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Files are new versions of those that the same curves came from.")
    ] = False,
    results: Results = RESULTS,
) -> None:
    """Take published learning curves into the results folder, where reports set them beside our runs."""
    from flowbench.common.errors import UsageError
    from flowbench.common.text_table import plural
    from flowbench.interop import importing

    prefix = importing.PREFIX if algo_prefix is None else algo_prefix
    found = importing.run(format, path, results, prefix=prefix, suite=suite, replace=replace)
    warn(found.left_out)
    if not found.runs:
        raise UsageError(f"{path}: nothing in it could be imported")
    table(["algorithm", "suite", "tasks", "curves", "last step"], importing.summary(found))
    if found.removed:
        print(f"removed {plural(len(found.removed), 'curve')} of an earlier version, which the new one does not hold")
