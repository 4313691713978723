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
        typer.Option(metavar="ALGO[,ALGO]", help="Algorithms as `run` takes them; all known ones if left out."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="hidden=512, flowrl.hidden=512.")
    ] = None,
    stack: Annotated[
        str | None, typer.Option(metavar="K[,K]", help="Seeds trained together; 1,5, or with --loop 1, if left out.")
    ] = None,
    obs: Annotated[str | None, typer.Option(metavar="N", help="Observation dimensions; 223 if left out.")] = None,
    act: Annotated[str | None, typer.Option(metavar="N", help="Action dimensions; 38 if left out.")] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="N", help="Transitions an update; the algorithm's own if left out.")
    ] = None,
    seconds: Annotated[str | None, typer.Option(metavar="S", help="Timing of each update; 3 if left out.")] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Stable-Baselines3's SAC and TD3 beside ours (extra: peers).")
    ] = False,
    loop: Annotated[
        str | None, typer.Option(metavar="TASK", help="Time whole training runs on this task instead of updates.")
    ] = None,
    steps: Annotated[str | None, typer.Option(metavar="N", help="Of such a run; 3000 if left out.")] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.")] = "auto",
    precision: Annotated[
        str,
        typer.Option(metavar="auto|float32|tf32|bfloat16", help="Of matrix products; auto: tf32 on a GPU."),
    ] = "auto",
    threads: Annotated[str | None, typer.Option(metavar="N", help="Of torch; all cores if left out.")] = None,
    format: Annotated[str, typer.Option("--format", metavar="table|markdown|json", help="How to print.")] = "table",
) -> None:
    """Time an update and an action of each algorithm, next to the hardware's limit; or see where a run's time goes."""
    given = {"obs": obs, "act": act, "batch": batch, "steps": steps, "threads": threads}
    counts = {name: count(f"--{name}", text) for name, text in given.items()}
    from flowbench import bench as benchmarks

    benchmarks.run(
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
