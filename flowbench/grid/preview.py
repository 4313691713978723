"""What `flowbench run` says before it trains: the cells, the slots, and what all will take."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flowbench.common import system, text_table
from flowbench.grid import calibration, cost_model
from flowbench.grid.cost_model import Here, Need, Record
from flowbench.plan.cells import Cell
from flowbench.schedule.groups import Due, Group
from flowbench.schedule.resources import Slots


@dataclass(frozen=True)
class Grid:
    """Cells, what is due of them, and how that is grouped."""

    cells: Sequence[Cell]
    due: Due
    groups: Sequence[Group]


def look_ahead(
    root: Path,
    grid: Grid,
    sharing: Callable[..., Slots],
    per_gpu: int | Literal["auto"] | None,
    *,
    calibrate: bool,
    force: bool,
) -> Preview:
    """What will take how long, where, by earlier runs below `root`, and with `calibrate` by short ones made now.

    `sharing` gives the slots for a number of groups that share a GPU. Raises UsageError for a number without a GPU.
    """
    groups, notes = grid.groups, []
    slots = sharing(per_gpu=1 if per_gpu == "auto" else per_gpu)
    records = cost_model.earlier(root, grid.due.due)
    if calibrate:
        here = Here.of(slots)
        unknown = [group for group in groups if cost_model.need(group, records, here) is None]
        measured, failed = calibration.measure(unknown, slots)
        records += measured
        notes += [f"not calibrated: {outcome.cell}: {outcome.error}" for outcome in failed]
    if per_gpu == "auto":
        number, why = _that_fit(groups, records, slots)
        slots = sharing(per_gpu=number)
        notes.append(f"--per-gpu auto: {number}, because {why}")
    slots = dataclasses.replace(slots, jobs=max(1, min(slots.jobs, len(groups))))
    starts = [0 if force else cost_model.reached(root, group) for group in groups]
    needs = cost_model.needs(groups, records, Here.of(slots), starts)
    return Preview(grid.cells, grid.due, groups, slots, needs, notes)


def _that_fit(groups: Sequence[Group], records: Sequence[Record], slots: Slots) -> tuple[int, str]:
    """How many of the groups may share a GPU, and why."""
    here = Here.of(slots)
    needs = [cost_model.need(group, records, here) for group in cost_model.one_of_each(groups)]
    models = [system.gpu_model(gpu) for gpu in slots.gpus]
    smallest = min((model[1] for model in models if model), default=None) if all(models) else None
    return cost_model.per_gpu(needs, len(slots.gpus), smallest, system.host_memory(), system.cores())


@dataclass(frozen=True)
class Preview(Grid):
    """A grid as it is about to be trained."""

    slots: Slots
    needs: Sequence[Need | None]  # of each group, None where nothing is known of it
    notes: Sequence[str]  # what was decided, and what went wrong, on the way

    def lines(self) -> list[str]:
        """All there is to say beside the table."""
        more = [self._slots(), self._takes()] if self.groups else []
        return [self.summary(), *more, *self.notes]

    def summary(self) -> str:
        """One line."""
        due, slots = self.due, self.slots
        count = len(self.cells)
        parts = [f"{count} cell{'s' * (count != 1)}", f"{len(due.due)} to run", f"{len(due.done)} done already"]
        if due.running:
            parts.append(f"{len(due.running)} being run by another process")
        where = f"{len(slots.gpus)} GPU{'s' * (len(slots.gpus) > 1)}" if slots.gpus else "CPU"
        if not due.due:
            return ", ".join(parts)
        stacked = f" in {len(self.groups)} stacked groups" if len(self.groups) < len(due.due) else ""
        told = ", ".join(parts) + f"{stacked}; {slots.jobs} at once on {where}, {_threads(slots)} each"
        seconds = cost_model.duration(self.needs, slots.jobs)
        return told if seconds is None else f"{told}; about {cost_model.hours(seconds)}"

    def table(self) -> text_table.TextTable:
        """A line a task and algorithm: seeds, how many to run and done, the variant's id; if known, what they take."""
        state = {id(cell): word for word, group in
                 (("to run", self.due.due), ("done", self.due.done), ("running", self.due.running))
                 for cell in group}  # fmt: skip
        bases = self._bases()
        more = ("time", "memory", "known from")[: 3 if len(bases) > 1 else 2] if any(self.needs) else ()
        lines: dict[tuple[str, str], list[Cell]] = {}
        for cell in self.cells:
            lines.setdefault(_line(cell), []).append(cell)
        rows = []
        for line, of_line in lines.items():
            count = Counter(state[id(cell)] for cell in of_line)
            steps = f"{of_line[0].variant.protocol.steps:,}"
            seeds = text_table.ranges(cell.seed for cell in of_line)
            done = f"{count['done']}" + (f" (+{count['running']} running)" if count["running"] else "")
            row = (" ".join(line), steps, seeds, str(count["to run"]), done, of_line[0].variant.config_id)
            rows.append((*row, *self._line_takes(line)[: len(more)]))
        columns = ("", "steps", "seeds", "to run", "done", "config", *more)
        return text_table.TextTable("Cells", columns, tuple(rows))

    def _bases(self) -> list[str]:
        """How what is known of the groups is known, and "?" where of some nothing is."""
        return list(dict.fromkeys(need.basis if need else "?" for need in self.needs))

    def _line_takes(self, line: tuple[str, str]) -> tuple[str, str, str]:
        """Time of a line's groups one after the other, memory of the largest of them, and how that is known."""
        needs = [need for group, need in zip(self.groups, self.needs, strict=True) if _line(group.cells[0]) == line]
        if not needs:
            return "", "", ""
        seconds = cost_model.duration(needs, 1)
        basis = "; ".join(dict.fromkeys(need.basis for need in needs if need))
        return "?" if seconds is None else cost_model.hours(seconds), self._memory(needs, 1, 1), basis or "?"

    def _memory(self, needs: Sequence[Need | None], jobs: int, per_gpu: int) -> str:
        """Main memory of so many groups at once, and that of one GPU."""
        counts = [cost_model.host_bytes(needs, jobs)]
        if self.slots.gpus:
            counts.append(cost_model.gpu_bytes(needs, per_gpu))
        told = ["?" if count is None else cost_model.gigabytes(count) for count in counts]
        return " + GPU ".join(told)

    def _slots(self) -> str:
        """Which groups train where at once."""
        slots = self.slots
        if not slots.gpus:
            return f"slots: {slots.jobs} on the CPU, {_threads(slots)} each"
        on = Counter(slots.gpus[number % len(slots.gpus)] for number in range(slots.jobs))
        return f"slots: {', '.join(f'{count} on GPU {gpu}' for gpu, count in on.items())}; {_threads(slots)} each"

    def _takes(self) -> str:
        """Hours and memory of the whole."""
        slots, unknown = self.slots, sum(need is None for need in self.needs)
        seconds = cost_model.duration(self.needs, slots.jobs)
        if seconds is None:
            return (
                f"time: ?, no run like {unknown} of {len(self.groups)} groups has finished; --calibrate measures them"
            )
        told = f"time: about {cost_model.hours(seconds)}; memory: {self._memory(self.needs, slots.jobs, slots.per_gpu)}"
        if not slots.gpus:
            told = f"{told} of {cost_model.gigabytes(system.host_memory())}"
        bases = self._bases()
        return told if len(bases) > 1 else f"{told}; known from {bases[0]}"


def _line(cell: Cell) -> tuple[str, str]:
    return cell.variant.label, cell.task.name


def _threads(slots: Slots) -> str:
    return f"{slots.threads} thread{'s' * (slots.threads > 1)}"
