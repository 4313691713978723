"""`flowbench status`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from flowbench.cli.app import app
from flowbench.cli.options import RESULTS, Results, named, warn


@app.command(epilog="Example: flowbench status --suite quick")
def status(
    suite: Annotated[list[str] | None, typer.Option(metavar="SUITE", help="Only this suite; may be repeated.")] = None,
    algo: Annotated[
        list[str] | None, typer.Option(metavar="ALGO", help="Only this algorithm; may be repeated.")
    ] = None,
    results: Results = RESULTS,
) -> None:
    """Show the progress of a grid: seeds done, running, failed and missing, by task and algorithm."""
    from flowbench.report import coverage
    from flowbench.store.load import load_results

    found = load_results(results, *named(suite, algo))
    warn(found.problems)
    coverage.show(found.runs, Console())
