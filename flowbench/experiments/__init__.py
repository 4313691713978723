"""Experiments of papers: a folder a paper, a YAML file an experiment, three scales of each.

An experiment is a grid of runs, a timing, or a module of its own beside its YAML file. Nothing here knows a paper.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from flowbench.common.errors import UsageError, one_of, unknown
from flowbench.experiments.experiment import SCALES, Experiment
from flowbench.plan.options import RunOptions

if TYPE_CHECKING:
    from flowbench.experiments.outcome import Outcome

__all__ = ["SCALES", "Experiment", "find", "names", "run"]

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Every experiment as paper/name."""
    return [f"{path.parent.name}/{path.stem}" for path in sorted(_FOLDER.glob("*/*.yaml"))]


def find(name: str) -> Experiment:
    """The experiment of that name; the paper may be left out where one paper alone has it. Raises UsageError."""
    known = names()
    found = [each for each in known if name in (each, each.partition("/")[2])]
    if len(found) > 1:
        raise UsageError(f"several papers have an experiment {name!r}: {', '.join(found)}")
    if not found:
        raise unknown("experiment", name, known if "/" in name else [each.partition("/")[2] for each in known])
    return Experiment.read(_FOLDER / f"{found[0]}.yaml")


def run(
    experiment: Experiment, scale: str, results: Path, folder: Path, *, device: str, jobs: int | None, dry_run: bool
) -> int:
    """Say what it costs, run it, draw into `folder`; the exit status. Runs of a grid go to `results`.

    Raises UsageError for a scale or device that is not known or not for this, and where nothing can be drawn.
    """
    from flowbench.common.system import DEVICES
    from flowbench.experiments import grids, timing
    from flowbench.store import atomic

    name = f"{experiment.paper}/{experiment.name}"
    chosen = experiment.scale(scale)
    one_of("device", device, DEVICES)
    if device == "cuda" and experiment.kind == "module":
        raise UsageError(f"--device cuda: {name} is computed on the CPU; use cpu or auto")
    if jobs is not None and experiment.kind != "grid":
        raise UsageError(f"--jobs {jobs} is for grids of runs, and {name} is none")
    folder = folder / f"{experiment.name}-{scale}"
    if not dry_run:
        atomic.make_writable("--figures", folder)
    module: Any = None
    if experiment.kind == "module":
        module = import_module(f"flowbench.experiments.{experiment.paper}.{chosen.pop('name')}")
        cost = module.cost(**chosen)
    else:
        cost = grids.cost(chosen) if experiment.kind == "grid" else timing.cost(chosen)
    print(f"{experiment.figure} of {experiment.paper}: {experiment.title}")
    print(f"what the paper says: {experiment.claim}")
    print(f"scale {scale}: {cost}", flush=True)
    if experiment.kind == "grid":
        return grids.run(chosen, results, folder, RunOptions(device=device, jobs=jobs, dry_run=dry_run))
    if dry_run:
        return 0
    with Progress(transient=True) as progress:
        bar = progress.add_task(experiment.name, total=1.0)

        def tell(done: float) -> None:
            progress.update(bar, completed=done)

        outcome: Outcome = module.run(folder, tell, **chosen) if module else timing.run(chosen, folder, device, tell)
    _show(outcome)
    return 0


def _show(outcome: Outcome) -> None:
    table = Table(*outcome.columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in outcome.rows:
        table.add_row(*map(escape, row))
    Console().print(table)
    for path in outcome.figures:
        print(f"drew {path}")
