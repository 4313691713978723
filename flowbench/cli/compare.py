"""`flowbench compare`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from flowbench.cli.app import app
from flowbench.cli.options import RESULTS, Labels, ResampleSeed, Results, Strict, count, named, warn


@app.command(epilog="Example: flowbench compare flowrl sac --suite quick")
def compare(
    algo: Annotated[str, typer.Argument(metavar="A", help="An algorithm, or its label as reports print it.")],
    over: Annotated[str, typer.Argument(metavar="B", help="The algorithm to compare it with.")],
    suite: Annotated[list[str] | None, typer.Option(metavar="SUITE", help="Only this suite; may be repeated.")] = None,
    step: Annotated[
        str | None, typer.Option(metavar="N", help="Compare at this step (default: the common step).")
    ] = None,
    format: Annotated[str, typer.Option("--format", metavar="table|markdown|json", help="How to print.")] = "table",
    reps: Annotated[str, typer.Option(metavar="N", help="Bootstrap resamples.")] = "10000",
    seed: ResampleSeed = 0,
    strict: Strict = False,
    label: Labels = None,
    results: Results = RESULTS,
) -> None:
    """Test whether A is better than B and on which tasks, and estimate how many seeds would decide the rest."""
    from flowbench.common.errors import one_of

    one_of("format", format, ("table", "markdown", "json"))
    at, resamples = count("--step", step), count("--reps", reps) or 0
    from flowbench.report import comparison
    from flowbench.store.load import load_results

    found = load_results(results, *named(suite, None))
    warn(found.problems)
    made = comparison.compare(
        found.runs, found.evals, algo, over, step=at, reps=resamples, seed=seed, strict=strict, labels=label or ()
    )
    if format == "table":
        comparison.show(made, Console())
    else:
        sys.stdout.write(comparison.FORMATS[format](made))
