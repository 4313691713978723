"""What `flowbench run` does with a grid: plan, show, train, sum up."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

import suites
from flowbench.common import duration, text_table
from flowbench.common.errors import UsageError, one_of
from flowbench.common.system import DEVICES, PRECISIONS
from flowbench.grid import progress
from flowbench.grid.preview import Grid, look_ahead
from flowbench.plan.cells import Cell
from flowbench.schedule.groups import enqueue, find_due, make_groups, take_shard, tidy
from flowbench.schedule.resources import choose_gpus, share, stack_size
from flowbench.schedule.runner import Outcome, Runner
from flowbench.store import atomic, loggers

if TYPE_CHECKING:
    from flowbench.schedule.executors.ray import Cluster


def run_grid(
    cells: Sequence[Cell],
    root: Path,
    *,
    device: str = "auto",
    gpus: str | None = None,
    per_gpu: int | Literal["auto"] | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    stack: int | None = None,
    precision: str = "auto",
    checkpoint_every: int | None = None,
    keep_checkpoints: bool = False,
    keep_weights: bool = False,
    log: str = "",
    dry_run: bool = False,
    calibrate: bool = False,
    force: bool = False,
    fail_fast: bool = False,
    retries: int = 0,
    timeout: float | None = None,
    shard: tuple[int, int] | None = None,
    auto: int | None = None,
    quiet: bool = False,
    cluster: Cluster | None = None,
) -> int:
    """Train what is due of a grid, or of a `shard` of it, here or on a cluster.

    `auto` is recorded: seeds are being added until a comparison is decided, or there are so many.
    The exit status: 0, 1 (a cell failed), 130 (interrupted).
    """
    _choice("device", device, DEVICES)
    console = Console()
    if cluster and (calibrate or per_gpu == "auto"):
        raise UsageError("--calibrate and --per-gpu auto measure this machine: they are not for --engine ray")
    cards = cluster.gpus(device, gpus) if cluster else choose_gpus(device, gpus)
    cores = cluster.cores(bool(cards)) if cluster else ()
    size = stack_size(stack, len(cards))
    grid, cells = cells, take_shard(cells, size, *shard) if shard else cells
    due = find_due(root, cells, force)
    if device == "cuda" and not cards:
        raise UsageError("--device cuda: there is no CUDA device here (nvidia-smi lists none); use cpu or auto")
    if precision == "tf32" and not cards:
        raise UsageError("--precision tf32 is for a GPU; use float32 or auto")
    chosen = _choice("precision", precision, PRECISIONS)
    sharing = partial(share, device, jobs, chosen, gpus=cards, threads=threads, cores=cores)
    groups = make_groups(due.due, size, None if force else root, grid)
    copies = loggers.parse(log)
    if shard and not quiet:
        _say(console, f"shard {shard[0]} of {shard[1]}: {len(cells)} of the grid's {len(grid)} cells")
    lacking = _lacking({cell.task.source for cell in due.due})
    if lacking and (calibrate or not dry_run):
        raise lacking[0]
    preview = look_ahead(root, Grid(cells, due, groups), sharing, per_gpu, calibrate=calibrate, force=force)
    slots = preview.slots
    if dry_run:
        text_table.show(preview.table(), console)
        console.print()
        for line in preview.lines():
            _say(console, line)
        for problem in lacking:
            _say(console, f"before this can run: {problem}")
        return 0
    atomic.make_writable("--results", root)
    enqueue(root, due.due)
    tidy(root, due.done)
    if not quiet:
        for line in [preview.summary(), *preview.notes, *([f"on {cluster}"] if cluster else [])]:
            _say(console, line)
    started = time.perf_counter()
    with progress.board(groups, slots.jobs, console, quiet) as board:
        runner = Runner(
            root,
            slots,
            board.event,
            engine=cluster.engine(root, slots) if cluster else None,
            fail_fast=fail_fast,
            redo=force,
            log=copies,
            checkpoint_every=checkpoint_every,
            keep_checkpoints=keep_checkpoints,
            keep_weights=keep_weights,
            retries=retries,
            timeout=timeout,
            auto=auto,
        )
        outcomes = []
        for outcome in runner.run(groups):
            board.outcome(outcome)
            outcomes.append(outcome)
    return _sum_up(console, outcomes, runner.interrupted, quiet, time.perf_counter() - started)


def _choice(option: str, value: str, choices: Sequence[str]) -> str | None:
    """The value, None for "auto"."""
    return None if one_of(option, value, choices) == "auto" else value


def _lacking(sources: Collection[str]) -> list[suites.SuiteError]:
    """What is not installed that these sources need."""
    found = []
    for source in sorted(sources):
        try:
            suites.require(source)
        except suites.SuiteError as error:
            found.append(error)
    return found


def _sum_up(console: Console, outcomes: Sequence[Outcome], interrupted: bool, quiet: bool, seconds: float) -> int:
    """Print how the grid ended, with every failure and its log."""
    count = Counter(outcome.status for outcome in outcomes)
    wrong = {"failed"} if interrupted else {"failed", "stopped"}
    failed = [outcome for outcome in outcomes if outcome.status in wrong]
    if not quiet and outcomes:
        words = ", ".join(f"{number} {status}" for status, number in count.items())
        _say(console, f"{words} in {duration.clock(seconds)}")
    for outcome in failed:
        reason = f": {outcome.error}" if outcome.error else ""
        print(f"flowbench: {outcome.cell} {outcome.status}{reason}; log: {outcome.log}", file=sys.stderr)
    if count["busy"]:
        print(f"flowbench: {count['busy']} being trained by another process: not finished yet", file=sys.stderr)
    if interrupted:
        print("flowbench: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 1 if failed else 0


def _say(console: Console, text: str) -> None:
    with contextlib.suppress(OSError, SystemExit):  # the exit status tells more than a line nobody reads
        console.print(text, markup=False, highlight=False, soft_wrap=True)
