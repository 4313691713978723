"""Which cells are due, and which of them train together."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from flowbench.common.errors import UsageError
from flowbench.plan.cells import Cell
from flowbench.store import checkpoint, lease, lock, records
from flowbench.store.records import RunRecord


@dataclass(frozen=True)
class Group:
    """Cells that train together in one worker process: seeds of one task and variant."""

    cells: tuple[Cell, ...]

    def __str__(self) -> str:
        first, seeds = self.cells[0], [cell.seed for cell in self.cells]
        if len(seeds) == 1:
            return str(first)
        consecutive = seeds == list(range(seeds[0], seeds[-1] + 1))
        text = f"{seeds[0]}-{seeds[-1]}" if consecutive else ",".join(map(str, seeds))
        return f"{first.variant.label} {first.task.name} seeds {text}"

    @property
    def steps(self) -> int:
        return self.cells[0].variant.protocol.steps


@dataclass
class Due:
    """The cells of a grid, sorted by their state; of `other_code` are those that other code has trained."""

    due: list[Cell] = field(default_factory=list)
    done: list[Cell] = field(default_factory=list)
    running: list[Cell] = field(default_factory=list)
    other_code: list[Cell] = field(default_factory=list)  # finished or interrupted: also in `done` or `due`


def find_due(root: Path, cells: Sequence[Cell], force: bool = False) -> Due:
    """Sort cells into due, done, and being trained by another process. With `force` done cells are due too.

    Without `force` it also finds those that the algorithm's code of another time has trained.
    """
    sorted_cells = Due()
    checked: set[tuple[str, str]] = set()
    for cell in cells:
        if (cell.suite.name, cell.task.name) not in checked:
            records.check_same_task(root, cell)
            checked.add((cell.suite.name, cell.task.name))
        try:
            status = records.status(root / cell.path)
        except records.NotARun:  # the folder is renamed when the cell is trained
            status = "missing"
        record = None if force else records.read_if_valid(root / cell.path)
        own = record if record and record.is_of(cell) else None
        done = own is not None and own.status == "done"
        if status == "running":
            sorted_cells.running.append(cell)
            continue
        (sorted_cells.done if done else sorted_cells.due).append(cell)
        if own and own.algo.code not in (None, cell.variant.code) and (done or checkpoint.steps(root / cell.path)):
            sorted_cells.other_code.append(cell)
    return sorted_cells


def enqueue(root: Path, cells: Sequence[Cell]) -> None:
    """Write a record for every cell that has none, so that the whole grid is visible in the results folder."""
    for cell in cells:
        folder = root / cell.path
        if not (folder / "run.json").exists():
            with suppress(OSError):  # such a cell fails later, without affecting others
                records.begin_run(folder, RunRecord.of(cell, [cell.seed]))


def tidy(root: Path, done: Sequence[Cell]) -> None:
    """Remove checkpoints and leases of finished cells that were left when a process was killed."""
    for cell in done:
        folder = root / cell.path
        record = records.read_if_valid(folder)
        unneeded = (folder / checkpoint.FOLDER).exists() and not (record and record.keep_checkpoints)
        if unneeded or (folder / lease.FOLDER).exists():
            with suppress(lock.Busy, OSError), lock.hold(folder):  # releasing it removes a lease that was left
                if unneeded:
                    checkpoint.remove(folder)


def is_done(folder: Path, cell: Cell) -> bool:
    """Whether the folder holds a finished run of this cell."""
    record = records.read_if_valid(folder)
    return record is not None and record.status == "done" and record.is_of(cell)


def make_groups(
    cells: Sequence[Cell], stack: int, root: Path | None = None, grid: Sequence[Cell] | None = None
) -> list[Group]:
    """Groups of up to `stack` seeds of one task and variant, of sizes as equal as possible, in the order of the cells.

    Cells of an interrupted group, which have checkpoints below `root`, stay together, so that they resume exactly. The
    others are divided as if all of `grid` were due, so that repeating a command makes the same groups.
    """
    interrupted = _interrupted(cells, root) if root else []
    groups = [Group(tuple(group)) for group in interrupted]
    resumed = {id(cell) for group in interrupted for cell in group}
    due = {id(cell) for cell in cells} - resumed
    lines: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in grid if grid is not None else [cell for cell in cells if id(cell) in due]:
        lines.setdefault(_line(cell), []).append(cell)
    for line in lines.values():
        count = math.ceil(len(line) / stack)
        bounds = [round(k * len(line) / count) for k in range(count + 1)]
        parts = [[cell for cell in line[low:high] if id(cell) in due] for low, high in pairwise(bounds)]
        groups += [Group(tuple(part)) for part in parts if part]
    place = {id(cell): position for position, cell in enumerate(cells)}
    return sorted(groups, key=lambda group: place[id(group.cells[0])])


def parse_shard(text: str) -> tuple[int, int]:
    """The two numbers of a text such as 2/8. Raises UsageError."""
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count:
        raise UsageError(f"--shard {text!r} is not a part such as 1/8, ..., 8/8")
    return number, count


def take_shard(cells: Sequence[Cell], stack: int, number: int, count: int) -> list[Cell]:
    """The cells of one of `count` parts of a grid, counted from 1; the parts depend only on the grid and `stack`.

    Groups are not divided. Each is added to the part with the fewest cells, larger groups first and those of a variant
    in sequence. So parts differ by one group at most; so do their shares of each variant if groups are equally large.
    """
    order: dict[str, int] = {}
    for cell in cells:
        order.setdefault(cell.variant.config_id, len(order))
    groups = make_groups(cells, stack, grid=cells)
    groups.sort(key=lambda group: (-len(group.cells), order[group.cells[0].variant.config_id]))
    sizes = [0] * count
    mine: set[int] = set()
    for group in groups:
        least = sizes.index(min(sizes))
        sizes[least] += len(group.cells)
        if least == number - 1:
            mine |= {id(cell) for cell in group.cells}
    return [cell for cell in cells if id(cell) in mine]


def _interrupted(cells: Sequence[Cell], root: Path) -> list[list[Cell]]:
    """Cells with checkpoints at a common step, grouped as they were trained."""
    found: list[tuple[set[int], set[int], list[Cell]]] = []  # steps that all cells have, steps that any has, the cells
    without: list[tuple[Cell, list[int]]] = []
    for cell in cells:
        saved = set(checkpoint.steps(root / cell.path))
        trained_with = _trained_with(root / cell.path)
        if not (saved and trained_with):
            without.append((cell, trained_with))
            continue
        for common, ever, group in found:
            together = group[0].seed in trained_with or cell.seed in _trained_with(root / group[0].path)
            if _line(group[0]) == _line(cell) and together and common & saved:
                common &= saved
                ever |= saved
                group.append(cell)
                break
        else:
            found.append((saved, set(saved), [cell]))

    def lacks_first_checkpoint(ever: set[int], group: Sequence[Cell]) -> bool:
        """Whether the group was killed while it wrote its first checkpoint: then all its cells start over together."""
        without_checkpoint = [
            cell for cell, trained_with in without if group[0].seed in trained_with and _line(group[0]) == _line(cell)
        ]
        return len(ever) == 1 and bool(without_checkpoint)

    return [_in_order(group, root) for _, ever, group in found if not lacks_first_checkpoint(ever, group)]


def _in_order(group: Sequence[Cell], root: Path) -> list[Cell]:
    """The cells in the order in which they were trained: a stacked group draws noise for its seeds in that order."""
    order = _trained_with(root / group[0].path)
    return sorted(group, key=lambda cell: order.index(cell.seed) if cell.seed in order else len(order))


def _trained_with(folder: Path) -> list[int]:
    """The seeds of the group that a run was trained in, its own included."""
    record = records.read_if_valid(folder)
    return (record.group if record else None) or []


def _line(cell: Cell) -> tuple[str, str, str]:
    """What cells that differ only in their seeds have in common."""
    return cell.suite.name, cell.task.name, cell.variant.config_id
