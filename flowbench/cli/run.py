"""`flowbench run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowbench.cli.app import app
from flowbench.cli.options import RESULTS, Results, count


@app.command(epilog="Example: flowbench run --suite quick --algo 'flowrl,flowrl\\[constraint=false],sac' --seeds 5")
def run(
    suite: Annotated[str | None, typer.Option(metavar="SUITE", help="A suite's name, or path/to/suite.yaml.")] = None,
    algo: Annotated[
        list[str] | None,
        typer.Option(metavar="ALGO[,ALGO]", help="Algorithms: name, name\\[key=value,...] or path/to/file.py:Class."),
    ] = None,
    task: Annotated[list[str] | None, typer.Option(metavar="TASK", help="Only this task; may be repeated.")] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="SEEDS", help="5 (the first five), 0,3,7, 0-9, or auto:20.")
    ] = None,
    steps: Annotated[str | None, typer.Option(metavar="N", help="Environment steps, instead of the suite's.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="lr=1e-4 for all that have it, flowrl.lr=1e-4 for one."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="YAML", help="A grid: the options above as keys.")
    ] = None,
    results: Results = RESULTS,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to train.")] = "auto",
    gpus: Annotated[
        str | None,
        typer.Option(metavar="all|0,1", help="GPUs to train on, counted as they are visible; all, if left out."),
    ] = None,
    per_gpu: Annotated[
        str | None,
        typer.Option(metavar="auto|K", help="Groups that share a GPU; auto: what earlier runs' memory allows."),
    ] = None,
    jobs: Annotated[
        str | None,
        typer.Option(metavar="N", help="Groups at once; one a GPU, or one a core, if left out. Caps --per-gpu."),
    ] = None,
    threads: Annotated[
        str | None, typer.Option(metavar="N", help="Threads of a group; the cores divided by the groups, if left out.")
    ] = None,
    stack: Annotated[
        str, typer.Option(metavar="auto|K", help="Seeds trained as one batched computation; auto: on a GPU, all.")
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(metavar="auto|float32|tf32|bfloat16", help="Of matrix products; auto: tf32 on a GPU."),
    ] = "auto",
    checkpoint_every: Annotated[
        str | None, typer.Option(metavar="N", help="Steps between checkpoints; with each evaluation, if left out.")
    ] = None,
    keep_checkpoints: Annotated[
        bool, typer.Option("--keep-checkpoints", help="Keep those of finished runs, which are removed otherwise.")
    ] = False,
    keep_weights: Annotated[
        bool, typer.Option("--keep-weights", help="Keep the final weights of each run; flowbench eval loads them.")
    ] = False,
    log: Annotated[str, typer.Option(metavar="tensorboard,wandb", help="Copy rows there too (extra: log).")] = "",
    engine: Annotated[
        str, typer.Option(metavar="local|ray", help="Train on this machine, or on a Ray cluster (extra: ray).")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Of the Ray cluster; the one of this machine, if left out."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the cells, what is done already and what the rest will take; run none."),
    ] = False,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Measure first what no earlier run tells of, in a few hundred steps each."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Run everything from its start, also what is done; finished runs are set aside."),
    ] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Start nothing more once a cell has failed.")] = False,
    retries: Annotated[
        str, typer.Option(metavar="N", help="Start again what the machine ended: killed, out of memory, disk full.")
    ] = "0",
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="End a cell that takes longer, such as 90m, 2h or 3600.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only the I-th of N parts of the grid, for N machines.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but failures.")] = False,
) -> int:
    """Train a grid of tasks, algorithms and seeds. Finished runs are skipped, interrupted ones are resumed."""
    from flowbench.common import duration
    from flowbench.grid import adaptive_seeds
    from flowbench.grid.run import run_grid
    from flowbench.plan.options import RunOptions
    from flowbench.plan.request import Request
    from flowbench.schedule import executors
    from flowbench.schedule.groups import parse_shard

    request = Request.merge(
        file,
        suite=suite,
        algo=algo or [],
        task=task or [],
        seeds=seeds,
        steps=count("--steps", steps),
        set=settings or [],
    )
    options = RunOptions(
        device=device,
        gpus=gpus,
        per_gpu="auto" if per_gpu == "auto" else count("--per-gpu", per_gpu),
        jobs=count("--jobs", jobs, most=10_000),
        threads=count("--threads", threads, most=1024),
        stack=None if stack == "auto" else count("--stack", stack),
        precision=precision,
        checkpoint_every=count("--checkpoint-every", checkpoint_every),
        keep_checkpoints=keep_checkpoints,
        keep_weights=keep_weights,
        log=tuple(name.strip() for name in log.split(",")) if log else (),
        dry_run=dry_run,
        calibrate=calibrate,
        force=force,
        fail_fast=fail_fast,
        retries=count("--retries", retries, least=0) or 0,
        timeout=duration.parse("--timeout", timeout) if timeout is not None else None,
        shard=parse_shard(shard) if shard is not None else None,
        auto=request.auto,
        quiet=quiet,
    )
    run = adaptive_seeds.run if request.auto else run_grid
    with executors.cluster(engine, address) as cluster:
        return run(request.cells(), results, options, cluster)
