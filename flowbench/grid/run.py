"""`flowbench run`: check the options, preview the grid, train it, and print a summary."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

import suites
from flowbench.common import duration, text_table
from flowbench.common.errors import UsageError, one_of, printable
from flowbench.common.system import DEVICES, PRECISIONS
from flowbench.common.text_table import plural
from flowbench.grid import progress
from flowbench.grid.preview import Grid, preview
from flowbench.plan.cells import Cell
from flowbench.plan.options import RunOptions
from flowbench.schedule.groups import Due, enqueue, find_due, make_groups, take_shard, tidy
from flowbench.schedule.resources import choose_gpus, share, stack_size
from flowbench.schedule.runner import Outcome, Runner
from flowbench.store import atomic, loggers, records

if TYPE_CHECKING:
    from flowbench.schedule.executors.ray import Cluster


def run_grid(cells: Sequence[Cell], root: Path, options: RunOptions, cluster: Cluster | None = None) -> int:
    """Train the due cells of a grid, or of a shard of it, on this machine or on a cluster.

    Returns the exit code: 0, 1 (a cell failed), 130 (interrupted). Raises UsageError.
    """
    console = Console()
    one_of("device", options.device, DEVICES)
    if cluster and (options.calibrate or options.per_gpu == "auto"):
        raise UsageError("--calibrate and --per-gpu auto measure this machine; they cannot be used with --engine ray")
    gpus = cluster.gpus(options.device, options.gpus) if cluster else choose_gpus(options.device, options.gpus)
    cores = cluster.cores(bool(gpus)) if cluster else ()
    stack = stack_size(options.stack, len(gpus))
    grid, cells = cells, take_shard(cells, stack, *options.shard) if options.shard else cells
    due = find_due(root, cells, options.force)
    check_code(due, options)
    if options.device == "cuda" and not gpus:
        raise UsageError("--device cuda: this machine has no CUDA device (nvidia-smi lists none); use cpu or auto")
    if options.precision == "tf32" and not gpus:
        raise UsageError("--precision tf32 needs a GPU; use float32 or auto")
    precision = one_of("precision", options.precision, PRECISIONS)
    make_slots = partial(
        share, options.device, options.jobs, None if precision == "auto" else precision,
        gpus=gpus, threads=options.threads, cores=cores,
    )  # fmt: skip
    groups = make_groups(due.due, stack, None if options.force else root, grid)
    loggers.check(options.log)
    if options.shard and not options.quiet:
        number, count = options.shard
        _print(console, f"shard {number} of {count}: {len(cells)} of the grid's {len(grid)} cells")
    missing = _missing({cell.task.source for cell in due.due})
    if missing and (options.calibrate or not options.dry_run):
        raise missing[0]
    for text in _without_effect(root, due.done, options):
        print(f"flowbench: {text}", file=sys.stderr)
    plan = preview(root, Grid(cells, due, groups), make_slots, options)
    if options.dry_run:
        for table in [plan.table(), *plan.settings()]:
            text_table.show(table, console)
        console.print()
        for line in plan.lines():
            _print(console, line)
        for problem in missing:
            _print(console, f"before this can run: {problem}")
        return 0
    atomic.make_writable("--results", root)
    enqueue(root, due.due)
    tidy(root, due.done)
    if not options.quiet:
        for line in [plan.summary(), *plan.notes, *([f"on {cluster}"] if cluster else [])]:
            _print(console, line)
    started = time.perf_counter()
    with progress.board(plan.groups, plan.slots.jobs, console, options.quiet) as board:
        executor = cluster.executor(root, plan.slots) if cluster else None
        runner = Runner(root, plan.slots, board.event, options, executor)
        outcomes = []
        for outcome in runner.run(plan.groups):
            board.outcome(outcome)
            outcomes.append(outcome)
    return _summary(console, outcomes, runner.interrupted, options.quiet, time.perf_counter() - started)


def check_code(due: Due, options: RunOptions) -> None:
    """Print a line for each variant that other code has trained. Raises UsageError unless the options accept them."""
    done = {id(cell) for cell in due.done}
    for label in dict.fromkeys(cell.variant.label for cell in due.other_code):
        own = [cell for cell in due.other_code if cell.variant.label == label]
        finished = sum(id(cell) in done for cell in own)
        counts = [(finished, "finished run"), (len(own) - finished, "interrupted run")]
        text = " and ".join(plural(count, name) for count, name in counts if count)
        verb = "was" if len(own) == 1 else "were"
        print(printable(f"flowbench: {label}: its code has changed since {text} {verb} trained"), file=sys.stderr)
    if due.other_code and not options.any_code:
        raise UsageError(
            "runs of other code are neither counted nor resumed: restore the code, name another folder with --results, "
            "train them again with --force (the old runs are kept aside), remove them (flowbench results rm), or "
            "accept them with --any-code"
        )


def _without_effect(root: Path, done: Sequence[Cell], options: RunOptions) -> list[str]:
    """A line for each option about what a run keeps that finished runs were trained without."""
    if not (options.keep_weights or options.keep_checkpoints or options.log):
        return []
    found = [run for cell in done if (run := records.read_if_valid(root / cell.path))]
    without = {
        "--keep-weights": options.keep_weights and [not run.keep_weights for run in found],
        "--keep-checkpoints": options.keep_checkpoints and [not run.keep_checkpoints for run in found],
        f"--log {','.join(options.log)}": options.log and [not set(options.log) <= set(run.log or ()) for run in found],
    }
    return [
        f"{option} has no effect on {plural(sum(cells), 'finished cell')}; "
        "--force trains finished cells again from the start"
        for option, cells in without.items()
        if cells and any(cells)
    ]


def _missing(sources: Collection[str]) -> list[suites.SuiteError]:
    """One error for each source of tasks whose libraries are not installed."""
    found = []
    for source in sorted(sources):
        try:
            suites.require(source)
        except suites.SuiteError as error:
            found.append(error)
    return found


def _summary(console: Console, outcomes: Sequence[Outcome], interrupted: bool, quiet: bool, seconds: float) -> int:
    """Print the number of cells by status, and every failure with its log; return the exit code."""
    count = Counter(outcome.status for outcome in outcomes)
    unsuccessful = {"failed"} if interrupted else {"failed", "stopped"}
    failed = [outcome for outcome in outcomes if outcome.status in unsuccessful]
    if not quiet and outcomes:
        words = ", ".join(f"{number} {status}" for status, number in count.items())
        _print(console, f"{words} in {duration.clock(seconds)}")
    for outcome in failed:
        reason = f": {outcome.error}" if outcome.error else ""
        print(printable(f"flowbench: {outcome.cell} {outcome.status}{reason}; log: {outcome.log}"), file=sys.stderr)
    if count["busy"]:
        print(f"flowbench: {plural(count['busy'], 'cell')} not finished: training in another process", file=sys.stderr)
    if interrupted:
        print("flowbench: interrupted; the same command resumes it", file=sys.stderr)
        return 130
    return 1 if failed else 0


def _print(console: Console, text: str) -> None:
    with contextlib.suppress(OSError, SystemExit):  # a closed pipe must not change the exit code
        console.print(text, markup=False, highlight=False, soft_wrap=True)
