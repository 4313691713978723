"""`flowbench report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flowbench.cli.app import app
from flowbench.cli.options import RESULTS, Labels, ResampleSeed, Results, Strict, count, named, warn


@app.command(epilog="Example: flowbench report --suite quick --format markdown > table.md")
def report(
    suite: Annotated[list[str] | None, typer.Option(metavar="SUITE", help="Only this suite; may be repeated.")] = None,
    algo: Annotated[
        list[str] | None, typer.Option(metavar="ALGO", help="Only this algorithm; may be repeated.")
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            metavar="iqm|name|given",
            help="Order of the algorithms: iqm (best first), name, or given (as in --algo). Default: given with "
            "--algo, otherwise iqm.",
        ),
    ] = None,
    label: Labels = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="ALGO", help="Compare every algorithm with this one only, and correct for these pairs."),
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
    figure: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=FILE",
            help="Also draw one figure, such as curves=fig2.pdf: curves, aggregates, profiles, improvement, efficiency "
            "or time, as SVG, PDF or PNG by the ending of the file; may be repeated.",
        ),
    ] = None,
    figure_size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Width and height of the figures in inches, such as 7x4.")
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
    at, resamples = count("--step", step), count("--reps", reps) or 0
    from flowbench import report as reports
    from flowbench.store.load import load_results

    drawing = reports.Drawing.of(figures, figure or (), figure_size, thin=thin)
    suites, algos = named(suite, algo)
    found = load_results(results, suites, algos)
    warn(found.problems)
    built = reports.build(
        found.runs,
        found.evals,
        step=at,
        reps=resamples,
        seed=seed,
        pairs_per_task=pairs,
        strict=strict,
        labels=label or (),
        sort=sort,
        given=algos,
        baseline=baseline,
    )
    if format == "table":
        reports.show(built, Console())
    else:
        sys.stdout.write(reports.render(built, format).rstrip("\n") + "\n")
    if drawing.wanted:
        from flowbench.report.figures import draw

        for path in draw(built, found.runs, found.evals, drawing):
            print(f"drew {path}", file=sys.stderr)
    if html:
        from flowbench.report import page

        text = page.render(built, found.runs, found.evals)
        try:
            html.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--html {str(html)!r}: {error.strerror}") from error
        print(f"wrote {html}", file=sys.stderr)
