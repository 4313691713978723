"""The preview that `flowbench run` prints before it trains: cells, slots, and estimated cost."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowbench.common import system, text_table
from flowbench.common.text_table import TextTable, plural
from flowbench.grid import calibration, cost_model
from flowbench.grid.cost_model import Conditions, Cost, Measurement
from flowbench.plan import settings
from flowbench.plan.cells import Cell
from flowbench.plan.options import RunOptions
from flowbench.schedule.groups import Due, Group
from flowbench.schedule.resources import Slots


@dataclass(frozen=True)
class Grid:
    """All cells, which of them are due, and the groups of the due ones."""

    cells: Sequence[Cell]
    due: Due
    groups: Sequence[Group]


def preview(root: Path, grid: Grid, make_slots: Callable[..., Slots], options: RunOptions) -> Preview:
    """Estimate the cost from earlier runs in `root`, and from short runs made now if `options.calibrate` is set.

    The groups of the result are in the order in which they start.

    `make_slots(per_gpu=...)` returns the slots for a number of groups that share a GPU. Raises UsageError if there is
    no GPU to share.
    """
    groups, notes = grid.groups, []
    slots = make_slots(per_gpu=1 if options.per_gpu == "auto" else options.per_gpu)
    measured = cost_model.measurements(root, grid.due.due)
    if options.calibrate:
        here = Conditions.of(slots)
        unknown = [group for group in groups if cost_model.cost(group, measured, here) is None]
        new, failed = calibration.measure(unknown, slots)
        measured += new
        notes += [f"not calibrated: {outcome.cell}: {outcome.error}" for outcome in failed]
    if options.per_gpu == "auto":
        number, why = _groups_per_gpu(groups, measured, slots)
        slots = make_slots(per_gpu=number)
        notes.append(f"--per-gpu auto: {number}, because {why}")
    slots = dataclasses.replace(slots, jobs=max(1, min(slots.jobs, len(groups))))
    starts = [0 if options.force else cost_model.resume_step(root, group) for group in groups]
    costs = cost_model.costs(groups, measured, Conditions.of(slots), starts)
    order = cost_model.longest_first(costs)
    return Preview(
        grid.cells, grid.due, [groups[place] for place in order], slots, [costs[place] for place in order], notes
    )


def _groups_per_gpu(groups: Sequence[Group], measured: Sequence[Measurement], slots: Slots) -> tuple[int, str]:
    """How many groups may share a GPU, and why."""
    here = Conditions.of(slots)
    costs = [cost_model.cost(group, measured, here) for group in cost_model.one_of_each(groups)]
    models = [system.gpu_model(gpu) for gpu in slots.gpus]
    smallest = min((model[1] for model in models if model), default=None) if all(models) else None
    return cost_model.per_gpu(costs, len(slots.gpus), smallest, system.host_memory(), system.cores())


@dataclass(frozen=True)
class Preview(Grid):
    """A grid that is ready to be trained."""

    slots: Slots
    costs: Sequence[Cost | None]  # of each group; None if unknown
    notes: Sequence[str]  # automatic decisions, and failed calibrations

    def lines(self) -> list[str]:
        """The lines below the table."""
        more = [self._slots(), self._cost()] if self.groups else []
        return [self.summary(), *more, *self.notes]

    def summary(self) -> str:
        """The grid in one line."""
        due, slots = self.due, self.slots
        parts = [plural(len(self.cells), "cell"), f"{len(due.due)} to run", f"{len(due.done)} done already"]
        if due.running:
            parts.append(f"{len(due.running)} running in another process")
        where = plural(len(slots.gpus), "GPU") if slots.gpus else "CPU"
        if not due.due:
            return ", ".join(parts)
        stacked = f" in {len(self.groups)} stacked groups" if len(self.groups) < len(due.due) else ""
        text = ", ".join(parts) + f"{stacked}; {slots.jobs} at once on {where}, {_threads(slots)} each"
        seconds = cost_model.total_seconds(self.costs, slots.jobs)
        return text if seconds is None else f"{text}; about {cost_model.hours(seconds)}"

    def table(self) -> TextTable:
        """One line per task and algorithm: steps, seeds, number to run and done, config id, and the cost if known."""
        state = {id(cell): word for word, group in
                 (("to run", self.due.due), ("done", self.due.done), ("running", self.due.running))
                 for cell in group}  # fmt: skip
        bases = self._bases()
        more = ("time", "memory", "estimated from")[: 3 if len(bases) > 1 else 2] if any(self.costs) else ()
        lines: dict[tuple[str, str], list[Cell]] = {}
        for cell in self.cells:
            lines.setdefault(_line(cell), []).append(cell)
        rows = []
        for line, cells in lines.items():
            count = Counter(state[id(cell)] for cell in cells)
            steps = f"{cells[0].variant.protocol.steps:,}"
            seeds = text_table.ranges(cell.seed for cell in cells)
            done = f"{count['done']}" + (f" (+{count['running']} running)" if count["running"] else "")
            row = (" ".join(line), steps, seeds, str(count["to run"]), done, cells[0].variant.config_id)
            rows.append((*row, *self._line_cost(line)[: len(more)]))
        columns = ("", "steps", "seeds", "to run", "done", "config", *more)
        return TextTable("Cells", columns, tuple(rows))

    def settings(self) -> list[TextTable]:
        """The resolved hyperparameters of every variant, a table for each algorithm."""
        variants = {cell.variant.config_id: cell.variant for cell in self.cells}
        return settings.tables(self.cells[0].suite, list(variants.values())) if self.cells else []

    def _bases(self) -> list[str]:
        """What the estimates are based on; "?" for groups with unknown cost."""
        return list(dict.fromkeys(cost.basis if cost else "?" for cost in self.costs))

    def _line_cost(self, line: tuple[str, str]) -> tuple[str, str, str]:
        """Columns of one line: time of its groups in sequence, memory of the largest group, basis of the estimate."""
        costs = [cost for group, cost in zip(self.groups, self.costs, strict=True) if _line(group.cells[0]) == line]
        if not costs:
            return "", "", ""
        seconds = cost_model.total_seconds(costs, 1)
        basis = "; ".join(dict.fromkeys(cost.basis for cost in costs if cost))
        return "?" if seconds is None else cost_model.hours(seconds), self._memory(costs, 1, 1), basis or "?"

    def _memory(self, costs: Sequence[Cost | None], jobs: int, per_gpu: int) -> str:
        """Main memory of `jobs` concurrent groups, and GPU memory of the `per_gpu` groups that share a GPU."""
        counts = [cost_model.host_bytes(costs, jobs)]
        if self.slots.gpus:
            counts.append(cost_model.gpu_bytes(costs, per_gpu))
        return " + GPU ".join("?" if count is None else cost_model.gigabytes(count) for count in counts)

    def _slots(self) -> str:
        """The line with the slots: how many groups train on each device."""
        slots = self.slots
        if not slots.gpus:
            return f"slots: {slots.jobs} on the CPU, {_threads(slots)} each"
        on = Counter(slots.gpus[number % len(slots.gpus)] for number in range(slots.jobs))
        return f"slots: {', '.join(f'{count} on GPU {gpu}' for gpu, count in on.items())}; {_threads(slots)} each"

    def _cost(self) -> str:
        """The line with the estimated time and memory."""
        slots, unknown = self.slots, sum(cost is None for cost in self.costs)
        seconds = cost_model.total_seconds(self.costs, slots.jobs)
        if seconds is None:
            return (
                f"time: ?, no run like {unknown} of {len(self.groups)} groups has finished; --calibrate measures them"
            )
        memory = self._memory(self.costs, slots.jobs, slots.per_gpu)
        text = f"time: about {cost_model.hours(seconds)}; memory: {memory}"
        if not slots.gpus:
            text = f"{text} of {cost_model.gigabytes(system.host_memory())}"
        bases = self._bases()
        return text if len(bases) > 1 else f"{text}; estimated from {bases[0]}"


def _line(cell: Cell) -> tuple[str, str]:
    return cell.variant.label, cell.task.name


def _threads(slots: Slots) -> str:
    return plural(slots.threads, "thread")
