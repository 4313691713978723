"""`flowbench run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowbench.cli.app import app
from flowbench.cli.options import RESULTS

WHAT, LENGTH, WHERE = "What to train", "How long", "Where and how fast"  # the groups of options in the help
KEEP, SHOW = "What to keep", "What to show"


@app.command(epilog="Example: flowbench run --suite quick --algo 'flowrl,flowrl\\[constraint=false],sac' --seeds 5")
def run(
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="SUITE",
            rich_help_panel=WHAT,
            help="The suite: its name (see flowbench list suites) or a YAML file.",
        ),
    ] = None,
    env: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Instead of a suite: one gymnasium environment, such as Pendulum-v1."),
    ] = None,
    algo: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ALGO[,ALGO]",
            rich_help_panel=WHAT,
            help="The algorithms: name (see flowbench list algos), name\\[key=value,...] for a variant, or "
            "path/to/file.py:Class.",
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK[,TASK]", rich_help_panel=WHAT, help="The tasks (default: all tasks of the suite)."),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="SEEDS",
            rich_help_panel=WHAT,
            help="The seeds: a count (5 means 0 to 4), a list (0,3,7), a range (0-9), or auto:20, which adds seeds "
            "until every comparison is decided, at most 20 (default: 5).",
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="N", rich_help_panel=LENGTH, help="Environment steps of each run (default: as the suite defines)."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            rich_help_panel=WHAT,
            help="Set a hyperparameter: lr=1e-4 for all algorithms that have it, flowrl.lr=1e-4 for one; "
            "may be repeated.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            metavar="YAML",
            rich_help_panel=WHAT,
            help="Read suite, algo, task, seeds, steps and set from a YAML file; options given here win.",
        ),
    ] = None,
    results: Annotated[
        Path,
        typer.Option(metavar="DIR", rich_help_panel=KEEP, help="The folder with the results of all runs."),
    ] = RESULTS,
    device: Annotated[
        str,
        typer.Option(
            metavar="DEVICE",
            rich_help_panel=WHERE,
            help="Where to train: cpu, cuda (or gpu), or auto (a GPU if there is one).",
        ),
    ] = "auto",
    gpus: Annotated[
        str | None,
        typer.Option(
            metavar="GPUS",
            rich_help_panel=WHERE,
            help="GPUs to train on: all, or their positions among the visible ones, such as 0,1 (default: all).",
        ),
    ] = None,
    per_gpu: Annotated[
        str | None,
        typer.Option(
            metavar="K",
            rich_help_panel=WHERE,
            help="How many groups (seeds that train together) share a GPU, on which they take turns; --stack uses it "
            "better. auto: as many as fit, judged by the memory of earlier runs (default: 1).",
        ),
    ] = None,
    jobs: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            rich_help_panel=WHERE,
            help="Maximum number of groups that train concurrently (default: --per-gpu on each GPU; without a GPU, "
            "one per core).",
        ),
    ] = None,
    threads: Annotated[
        str | None,
        typer.Option(
            metavar="N", rich_help_panel=WHERE, help="CPU threads per group (default: cores divided by groups)."
        ),
    ] = None,
    stack: Annotated[
        str,
        typer.Option(
            metavar="K",
            rich_help_panel=WHERE,
            help="Seeds that form a group, trained as one batched computation. auto: 8 on a GPU, 1 on the CPU.",
        ),
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            metavar="TYPE",
            rich_help_panel=WHERE,
            help="Precision of matrix products: float32, tf32, bfloat16, or auto (tf32 on a GPU, float32 on the CPU).",
        ),
    ] = "auto",
    checkpoint_every: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            rich_help_panel=KEEP,
            help="Environment steps between checkpoints (default: one at each evaluation).",
        ),
    ] = None,
    keep_checkpoints: Annotated[
        bool,
        typer.Option(
            "--keep-checkpoints",
            rich_help_panel=KEEP,
            help="Keep the checkpoints of finished runs, which are otherwise deleted.",
        ),
    ] = False,
    keep_weights: Annotated[
        bool,
        typer.Option(
            "--keep-weights", rich_help_panel=KEEP, help="Keep the final weights of each run, for flowbench eval."
        ),
    ] = False,
    log: Annotated[
        str,
        typer.Option(
            metavar="LOGGERS",
            rich_help_panel=KEEP,
            help="Also send the results to tensorboard, wandb or both (tensorboard,wandb). Needs the extra 'log'.",
        ),
    ] = "",
    engine: Annotated[
        str,
        typer.Option(
            metavar="ENGINE",
            rich_help_panel=WHERE,
            help="local: train on this machine. ray: on a Ray cluster (extra 'ray').",
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            rich_help_panel=WHERE,
            help="HOST:PORT of the Ray cluster (default: the cluster of this machine).",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            rich_help_panel=SHOW,
            help="Show the cells, what is already done, and the estimated time and memory. Try every algorithm and "
            "task once. Train nothing.",
        ),
    ] = False,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            rich_help_panel=SHOW,
            help="Measure the cost of groups unlike all earlier runs: train each kind for a few hundred steps first.",
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            rich_help_panel=WHAT,
            help="Train everything from the start, also what is done; old results are kept aside.",
        ),
    ] = False,
    any_code: Annotated[
        bool,
        typer.Option(
            "--any-code",
            rich_help_panel=WHAT,
            help="Accept finished and interrupted runs although the code of their algorithm has changed since.",
        ),
    ] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", rich_help_panel=LENGTH, help="Start no other group after a cell has failed.")
    ] = False,
    retries: Annotated[
        str,
        typer.Option(
            metavar="N",
            rich_help_panel=LENGTH,
            help="How often to restart a group after a fault of the machine: killed, out of memory, disk full.",
        ),
    ] = "0",
    timeout: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", rich_help_panel=LENGTH, help="Time limit of each group, such as 90m, 2h or 3600 (seconds)."
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            rich_help_panel=WHAT,
            help="Train only part I of N parts of the grid, for example one part per machine.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", rich_help_panel=SHOW, help="Print only failures.")] = False,
) -> int:
    """Train a grid of tasks, algorithms and seeds. Finished runs are skipped; interrupted runs are resumed."""
    from flowbench.plan.expand import parse_seeds

    if seeds is not None:
        parse_seeds(seeds)  # before the import below, which takes seconds
    from flowbench import api

    return api.run(
        suite=suite,
        env=env,
        algo=algo or (),
        task=task or (),
        seeds=seeds,
        steps=steps,
        set=settings or (),
        file=file,
        results=results,
        device=device,
        gpus=gpus,
        per_gpu=per_gpu,
        jobs=jobs,
        threads=threads,
        stack=stack,
        precision=precision,
        checkpoint_every=checkpoint_every,
        keep_checkpoints=keep_checkpoints,
        keep_weights=keep_weights,
        log=log,
        engine=engine,
        address=address,
        dry_run=dry_run,
        calibrate=calibrate,
        force=force,
        any_code=any_code,
        fail_fast=fail_fast,
        retries=retries,
        timeout=timeout,
        shard=shard,
        quiet=quiet,
    )
