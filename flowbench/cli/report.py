"""`flowbench report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flowbench.cli.app import app
from flowbench.cli.options import RESULTS, ResampleSeed, Results, Strict, count, named, warn


@app.command(epilog="Example: flowbench report --suite quick --format markdown > table.md")
def report(
    suite: Annotated[list[str] | None, typer.Option(metavar="SUITE", help="Only this suite; may be repeated.")] = None,
    algo: Annotated[
        list[str] | None, typer.Option(metavar="ALGO", help="Only this algorithm; may be repeated.")
    ] = None,
    step: Annotated[
        str | None, typer.Option(metavar="N", help="Report at this step (default: the common step).")
    ] = None,
    format: Annotated[
        str, typer.Option("--format", metavar="table|markdown|latex|csv|json", help="How to print.")
    ] = "table",
    reps: Annotated[str, typer.Option(metavar="N", help="Bootstrap resamples.")] = "10000",
    seed: ResampleSeed = 0,
    strict: Strict = False,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Also print the probability of improvement on each task.")
    ] = False,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also draw the figures as SVG, PDF and PNG, in this folder.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the report as one HTML page for a browser.")
    ] = None,
    thin: Annotated[bool, typer.Option("--thin", help="Add a thin line for each seed to the learning curves.")] = False,
    results: Results = RESULTS,
) -> None:
    """Print aggregate scores, the returns of each task, and which algorithms differ, with 95 % bootstrap intervals."""
    from flowbench.common.errors import UsageError, one_of

    one_of("format", format, ("table", "markdown", "latex", "csv", "json"))
    if thin and figures is None:
        raise UsageError("--thin adds lines to figures: give their folder with --figures DIR")
    at, resamples = count("--step", step), count("--reps", reps) or 0
    from flowbench import report as reports
    from flowbench.store.load import load_results

    found = load_results(results, *named(suite, algo))
    warn(found.problems)
    built = reports.build(
        found.runs, found.evals, step=at, reps=resamples, seed=seed, pairs_per_task=pairs, strict=strict
    )
    if format == "table":
        reports.show(built, Console())
    else:
        sys.stdout.write(reports.render(built, format).rstrip("\n") + "\n")
    if figures:
        from flowbench.report.figures import save

        try:
            drawn = save(built, found.runs, found.evals, figures, thin=thin)
        except OSError as error:
            raise UsageError(f"--figures {str(figures)!r}: {error.strerror}") from error
        for path in drawn:
            print(f"drew {path}", file=sys.stderr)
    if html:
        from flowbench.report import page

        text = page.render(built, found.runs, found.evals)
        try:
            html.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--html {str(html)!r}: {error.strerror}") from error
        print(f"wrote {html}", file=sys.stderr)
