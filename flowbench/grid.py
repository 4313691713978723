"""What `flowbench run` does: read the request, plan, show, train, sum up."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import suites
from flowbench import mirrors, progress, schedule
from flowbench.errors import UsageError, unknown
from flowbench.plan import Cell
from flowbench.request import Request
from flowbench.runner import Outcome, Runner
from flowbench.schedule import Due, Group
from flowbench.slots import Slots, choose_gpus, share, stack_size

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "float32", "tf32", "bfloat16")


def run(
    request: Request,
    root: Path,
    *,
    device: str = "auto",
    gpus: str | None = None,
    per_gpu: int | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    stack: int | None = None,
    precision: str = "auto",
    checkpoint_every: int | None = None,
    keep_checkpoints: bool = False,
    keep_weights: bool = False,
    log: str = "",
    dry_run: bool = False,
    force: bool = False,
    fail_fast: bool = False,
    quiet: bool = False,
) -> int:
    """Train what is due of a grid; the exit status: 0, 1 (a cell failed), 130 (interrupted)."""
    _choice("device", device, DEVICES)
    console = Console()
    cells = request.cells()
    due = schedule.due(root, cells, force)
    cards = choose_gpus(device, gpus)
    chosen = _choice("precision", precision, PRECISIONS)
    slots = share(device, jobs, chosen, gpus=cards, per_gpu=per_gpu, threads=threads)
    groups = schedule.gather(due.due, stack_size(stack, len(cards)), None if force else root, cells)
    slots = dataclasses.replace(slots, jobs=max(1, min(slots.jobs, len(groups))))
    copies = mirrors.parse(log)
    if device == "cuda" and not slots.gpus:
        raise UsageError("--device cuda: there is no CUDA device here (nvidia-smi lists none); use cpu or auto")
    if slots.precision == "tf32" and not slots.gpus:
        raise UsageError("--precision tf32 is for a GPU; use float32 or auto")
    lacking = _lacking({cell.task.source for cell in due.due})
    if dry_run:
        _show_plan(console, cells, due, groups, slots)
        for problem in lacking:
            _say(console, f"before this can run: {problem}")
        return 0
    if lacking:
        raise lacking[0]
    _check_writable(root)
    schedule.enqueue(root, due.due)
    schedule.tidy(root, due.done)
    if not quiet:
        _say(console, _summary(cells, due, groups, slots))
    started = time.perf_counter()
    with progress.board(groups, slots.jobs, console, quiet) as board:
        runner = Runner(
            root,
            slots,
            board.event,
            fail_fast=fail_fast,
            redo=force,
            log=copies,
            checkpoint_every=checkpoint_every,
            keep_checkpoints=keep_checkpoints,
            keep_weights=keep_weights,
        )
        outcomes = []
        for outcome in runner.run(groups):
            board.outcome(outcome)
            outcomes.append(outcome)
    return _sum_up(console, outcomes, runner.interrupted, quiet, time.perf_counter() - started)


def _choice(option: str, value: str, choices: Sequence[str]) -> str | None:
    """The value, None for "auto"."""
    if value not in choices:
        raise unknown(option, value, choices)
    return None if value == "auto" else value


def _lacking(sources: Collection[str]) -> list[suites.SuiteError]:
    """What is not installed that these sources need."""
    found = []
    for source in sorted(sources):
        try:
            suites.require(source)
        except suites.SuiteError as error:
            found.append(error)
    return found


def _check_writable(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--results {str(root)!r} cannot be made: {error.strerror}") from error
    if not os.access(root, os.W_OK | os.X_OK):
        raise UsageError(f"--results {str(root)!r} cannot be written to")


def _summary(cells: Sequence[Cell], due: Due, groups: Sequence[Group], slots: Slots) -> str:
    parts = [f"{len(cells)} cell{'s' * (len(cells) != 1)}", f"{len(due.due)} to run", f"{len(due.done)} done already"]
    if due.running:
        parts.append(f"{len(due.running)} being run by another process")
    where = f"{len(slots.gpus)} GPU{'s' * (len(slots.gpus) > 1)}" if slots.gpus else "CPU"
    threads = f"{slots.threads} thread" + ("s" if slots.threads > 1 else "")
    if not due.due:
        return ", ".join(parts)
    stacked = f" in {len(groups)} stacked groups" if len(groups) < len(due.due) else ""
    return ", ".join(parts) + f"{stacked}; {slots.jobs} at once on {where}, {threads} each"


def _show_plan(console: Console, cells: Sequence[Cell], due: Due, groups: Sequence[Group], slots: Slots) -> None:
    """A line a task and algorithm: seeds to run, done and running, steps, and the variant's id."""
    state = {id(cell): word for word, group in (("to run", due.due), ("done", due.done), ("running", due.running))
             for cell in group}  # fmt: skip
    table = Table(
        "task", "algorithm", "steps", "seeds", "to run", "done", "config", box=box.SIMPLE_HEAD, pad_edge=False
    )
    lines: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        lines.setdefault((cell.task.name, cell.variant.label), []).append(cell)
    for (task, label), of_line in lines.items():
        count = Counter(state[id(cell)] for cell in of_line)
        steps = f"{of_line[0].variant.protocol.steps:,}"
        seeds = ",".join(str(cell.seed) for cell in of_line)
        done = f"{count['done']}" + (f" (+{count['running']} running)" if count["running"] else "")
        table.add_row(
            escape(task), escape(label), steps, seeds, str(count["to run"]), done, of_line[0].variant.config_id
        )
    console.print(table)
    _say(console, _summary(cells, due, groups, slots))


def _sum_up(console: Console, outcomes: Sequence[Outcome], interrupted: bool, quiet: bool, seconds: float) -> int:
    """Print how the grid ended, with every failure and its log."""
    count = Counter(outcome.status for outcome in outcomes)
    wrong = {"failed"} if interrupted else {"failed", "stopped"}
    failed = [outcome for outcome in outcomes if outcome.status in wrong]
    if not quiet and outcomes:
        words = ", ".join(f"{number} {status}" for status, number in count.items())
        _say(console, f"{words} in {progress.clock(seconds)}")
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
    with contextlib.suppress(BrokenPipeError, SystemExit):  # the exit status tells more than a line nobody reads
        console.print(text, markup=False, highlight=False, soft_wrap=True)
