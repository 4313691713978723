"""`flowbench eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from flowbench.cli.app import app
from flowbench.cli.options import RESULTS, Results, count


@app.command("eval", epilog="Example: flowbench eval results/quick/cartpole-swingup/sac/default-*/seed-0 --episodes 10")
def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, also below --results, or a weights file.")],
    episodes: Annotated[
        str | None, typer.Option(metavar="N", help="Episodes; as many as in training, if left out.")
    ] = None,
    video: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Film the first episode: .mp4 or .gif (extra: video).")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="K", min=0, help="Episodes as a run of this seed is evaluated on; else others."),
    ] = None,
    algo: Annotated[
        str | None, typer.Option(metavar="FILE.py:CLASS", help="The file of an algorithm that is not flowbench's own.")
    ] = None,
    format: Annotated[str, typer.Option("--format", metavar="table|json", help="How to print.")] = "table",
    results: Results = RESULTS,
) -> None:
    """Evaluate a trained policy from the weights that its run has kept."""
    from flowbench.common.errors import one_of

    one_of("format", format, ("table", "json"))
    number = count("--episodes", episodes)
    import dataclasses

    from flowbench.evaluate import trained_agent
    from flowbench.store import weights

    trained = weights.find(run, results)
    with Console(stderr=True).status("evaluating") as status:
        tried = trained_agent.run(
            trained,
            number,
            seed,
            video,
            lambda steps: status.update(f"filming the first episode: step {steps}"),
            algo,
        )
    if format == "json":
        typer.echo(json.dumps(dataclasses.asdict(tried)))
        return
    table = Table(
        "return", "score", "std", "min", "max", "length", "episodes", box=box.SIMPLE_HEAD, pad_edge=False,
        title=f"{tried.algo} {tried.task} seed {tried.seed} at step {tried.step:,}", title_justify="left",
    )  # fmt: skip
    numbers = (
        f"{tried.mean:.1f}",
        f"{tried.score:.3f}",
        *(f"{each:.1f}" for each in (tried.std, tried.min, tried.max)),
    )
    table.add_row(*numbers, f"{tried.length:.1f}", str(tried.episodes))
    Console().print(table)
