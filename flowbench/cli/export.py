"""`flowbench export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowbench.cli.app import app
from flowbench.cli.options import RESULTS, Results, count, named, warn


@app.command(epilog="Example: flowbench export --format csv ours.csv")
def export(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A new file, or for tdmpc2 a new folder.")],
    format: Annotated[
        str, typer.Option("--format", metavar="tdmpc2|simbav2|csv|scores", help="Curves, or score matrices as JSON.")
    ] = "csv",
    suite: Annotated[str | None, typer.Option(metavar="SUITE", help="The suite, if the results have several.")] = None,
    algo: Annotated[
        list[str] | None, typer.Option(metavar="ALGO", help="Only this algorithm; may be repeated.")
    ] = None,
    step: Annotated[str | None, typer.Option(metavar="N", help="Step of the scores. Default: as in a report.")] = None,
    results: Results = RESULTS,
) -> None:
    """Export our runs as learning curves in a published format, or as score matrices (runs x tasks) for rliable."""
    from flowbench.common.errors import printable
    from flowbench.interop import exporting
    from flowbench.store.load import load_results

    found = load_results(results, *named([suite] if suite else None, algo))
    warn(found.problems)
    written = exporting.run(format, path, found.runs, found.evals, step=count("--step", step))
    warn(written.left_out)
    print(printable(f"wrote {path}: {written.what}"))
