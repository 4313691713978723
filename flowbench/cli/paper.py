"""`flowbench paper`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowbench.cli.app import app
from flowbench.cli.options import RESULTS, Results, count, table


@app.command(epilog="Example: flowbench paper flowrl/constraint --scale cpu")
def paper(
    name: Annotated[
        str | None, typer.Argument(metavar="LIST|NAME", help="An experiment, or list. Default: list.")
    ] = None,
    scale: Annotated[
        str, typer.Option(metavar="smoke|cpu|full", help="A minute; minutes to hours on two cores; the paper's size.")
    ] = "smoke",
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for figures. Default: figures/ in the results folder.")
    ] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Device to compute on.")] = "auto",
    jobs: Annotated[
        str | None, typer.Option(metavar="N", help="Groups of cells trained concurrently. Default: as in `run`.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the cost without running anything.")] = False,
    results: Results = RESULTS,
) -> int:
    """Run an experiment of a paper at one of three scales, and draw its figure."""
    from flowbench.experiments import experiment as experiments

    if name is None or name == "list":
        found = [experiments.find(each) for each in experiments.names()]
        table(["experiment", "figure", "what it shows"], [[f"{e.paper}/{e.name}", e.figure, e.title] for e in found])
        return 0
    from flowbench.experiments.run import run_experiment

    experiment = experiments.find(name)
    folder = figures or results / "figures" / experiment.paper
    number = count("--jobs", jobs)
    return run_experiment(experiment, scale, results, folder, device=device, jobs=number, dry_run=dry_run)
