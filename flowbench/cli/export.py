"""`flowbench export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowbench.cli.app import app
from flowbench.cli.options import RESULTS, Results, count, named, warn


@app.command(epilog="Example: flowbench export --format csv ours.csv")
def export(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file that does not exist yet; for tdmpc2 a folder.")],
    format: Annotated[
        str, typer.Option("--format", metavar="tdmpc2|simbav2|csv|scores", help="Curves, or score matrices as JSON.")
    ] = "csv",
    suite: Annotated[
        str | None, typer.Option(metavar="SUITE", help="Which suite's runs, where the results hold several.")
    ] = None,
    algo: Annotated[
        list[str] | None, typer.Option(metavar="ALGO", help="Only this algorithm; may be repeated.")
    ] = None,
    step: Annotated[
        str | None, typer.Option(metavar="N", help="Of the scores; the step that a report compares at, if left out.")
    ] = None,
    results: Results = RESULTS,
) -> None:
    """Write our runs as others publish theirs: as learning curves, or as rliable's matrices (runs x tasks)."""
    from flowbench.interop import exporting
    from flowbench.store.load import load_results

    found = load_results(results, *named([suite] if suite else None, algo))
    warn(found.problems)
    written = exporting.run(format, path, found.runs, found.evals, step=count("--step", step))
    warn(written.left_out)
    print(f"wrote {path}: {written.what}")
