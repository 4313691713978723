"""Runs one experiment at one scale: `flowbench paper`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from flowbench.common.errors import UsageError, one_of
from flowbench.common.system import DEVICES
from flowbench.experiments import grids, timing
from flowbench.experiments.experiment import Experiment
from flowbench.plan.options import RunOptions
from flowbench.store import atomic


def run_experiment(
    experiment: Experiment, scale: str, results: Path, folder: Path, *, device: str, jobs: int | None, dry_run: bool
) -> int:
    """Print what the experiment costs, run it and draw its figure into `folder`. Returns the exit status.

    The runs of a grid are stored in `results`. Raises UsageError for an unknown scale or device, for an option that
    this kind of experiment does not support, and if the figures cannot be written.
    """
    name = f"{experiment.paper}/{experiment.name}"
    options = experiment.scale(scale)
    one_of("device", device, DEVICES)
    if device == "cuda" and experiment.kind == "module":
        raise UsageError(f"--device cuda: {name} runs on the CPU only; use cpu or auto")
    if jobs is not None and experiment.kind != "grid":
        raise UsageError(f"--jobs {jobs} is only for grids of runs, and {name} is not a grid")
    folder = folder / f"{experiment.name}-{scale}"
    if not dry_run:
        atomic.make_writable("--figures", folder)
    module: Any = None
    if experiment.kind == "module":
        module = import_module(f"flowbench.experiments.{experiment.paper}.{options.pop('name')}")
        cost = module.cost(**options)
    else:
        cost = grids.cost(options) if experiment.kind == "grid" else timing.cost(options)
    print(f"{experiment.figure} of {experiment.paper}: {experiment.title}")
    print(f"claim of the paper: {experiment.claim}")
    print(f"scale {scale}: {cost}", flush=True)
    if experiment.kind == "grid":
        return grids.run(options, results, folder, RunOptions(device=device, jobs=jobs, dry_run=dry_run))
    if dry_run:
        return 0
    with Progress(transient=True) as progress:
        bar = progress.add_task(experiment.name, total=1.0)

        def on_progress(share: float) -> None:
            progress.update(bar, completed=share)

        if module:
            outcome = module.run(folder, on_progress, **options)
        else:
            outcome = timing.run(options, folder, device, on_progress)
    table = Table(*outcome.columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in outcome.rows:
        table.add_row(*map(escape, row))
    Console().print(table)
    for path in outcome.figures:
        print(f"drew {path}")
    return 0
