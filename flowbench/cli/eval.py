"""`flowbench eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flowbench.cli.app import app
from flowbench.cli.options import RESULTS, Results, count


@app.command("eval", epilog="Example: flowbench eval results/quick/cartpole-swingup/sac/default-*/seed-0 --episodes 10")
def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or a weights file.")],
    episodes: Annotated[
        str | None, typer.Option(metavar="N", help="Number of episodes. Default: as in training.")
    ] = None,
    video: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Record the first episode: .mp4 or .gif (extra: video).")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="K", min=0, help="Evaluate like a run of this seed. Default: seeds unused in training."),
    ] = None,
    algo: Annotated[
        str | None,
        typer.Option(metavar="FILE.py:CLASS", help="The algorithm's file, if it is not part of flowbench."),
    ] = None,
    format: Annotated[str, typer.Option("--format", metavar="table|json", help="Output format.")] = "table",
    results: Results = RESULTS,
) -> None:
    """Evaluate a trained policy from the weights of a run that kept them (`run --keep-weights`)."""
    from flowbench.common.errors import one_of, printable

    one_of("format", format, ("table", "json"))
    number = count("--episodes", episodes)
    import dataclasses

    from flowbench.evaluate import trained_agent
    from flowbench.store import weights

    trained = weights.find(run, results)
    with Console(stderr=True).status("evaluating") as status:
        result = trained_agent.evaluate(
            trained,
            number,
            seed,
            video,
            lambda step: status.update(f"recording the first episode: step {step}"),
            algo,
        )
    if format == "json":
        typer.echo(json.dumps(dataclasses.asdict(result)))
        return
    table = Table(
        "return", "score", "std", "min", "max", "length", "episodes", box=box.SIMPLE_HEAD, pad_edge=False,
        title=Text(printable(f"{result.algo} {result.task} seed {result.seed} at step {result.step:,}"), "italic"),
        title_justify="left",
    )  # fmt: skip
    numbers = (
        f"{result.mean:.1f}",
        f"{result.score:.3f}",
        *(f"{each:.1f}" for each in (result.std, result.min, result.max)),
    )
    table.add_row(*numbers, f"{result.length:.1f}", str(result.episodes))
    Console().print(table)
