"""`flowbench bench`."""

from __future__ import annotations

from typing import Annotated

import typer

from flowbench.cli.app import app
from flowbench.cli.options import count


@app.command(epilog="Example: flowbench bench --algo sac,td3 --stack 1,5")
def bench(
    algo: Annotated[
        list[str] | None,
        typer.Option(metavar="ALGO[,ALGO]", help="Algorithms, as in `run`. Default: all."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="hidden=512 or flowrl.hidden=512."),
    ] = None,
    stack: Annotated[
        str | None,
        typer.Option(metavar="K[,K]", help="Seeds trained together. Default: 1,5; with --loop: 1."),
    ] = None,
    obs: Annotated[str | None, typer.Option(metavar="N", help="Observation dimensions. Default: 223.")] = None,
    act: Annotated[str | None, typer.Option(metavar="N", help="Action dimensions. Default: 38.")] = None,
    batch: Annotated[str | None, typer.Option(metavar="N", help="Batch size. Default: the algorithm's own.")] = None,
    seconds: Annotated[str | None, typer.Option(metavar="S", help="How long each update is timed. Default: 3.")] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Also time SAC and TD3 of Stable-Baselines3 and SBX (extra: peers).")
    ] = False,
    loop: Annotated[
        str | None,
        typer.Option(metavar="TASK", help="Time whole training runs on this task instead of updates."),
    ] = None,
    steps: Annotated[str | None, typer.Option(metavar="N", help="With --loop: steps of a run. Default: 3000.")] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Device to compute on.")] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            metavar="auto|float32|tf32|bfloat16",
            help="Of matrix products; auto: tf32 on a GPU, else float32.",
        ),
    ] = "auto",
    threads: Annotated[str | None, typer.Option(metavar="N", help="Threads of torch. Default: all cores.")] = None,
    format: Annotated[str, typer.Option("--format", metavar="table|markdown|json", help="Output format.")] = "table",
) -> None:
    """Time an update and an action of each algorithm, or with --loop the parts of a whole training run."""
    given = {"obs": obs, "act": act, "batch": batch, "steps": steps, "threads": threads}
    counts = {name: count(f"--{name}", text) for name, text in given.items()}
    from flowbench.bench.run import run_benchmark

    run_benchmark(
        algo=algo or [],
        settings=settings or [],
        stack=stack,
        seconds=seconds,
        with_peers=peers,
        task=loop,
        device=device,
        precision=precision,
        format=format,
        **counts,
    )
