"""The progress of a running grid: bars in a terminal, one line per evaluation in logs and pipes, or nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from flowbench.common.duration import clock
from flowbench.common.pace import Pace, time_left
from flowbench.schedule.groups import Group
from flowbench.schedule.runner import Outcome


class Remaining:
    """The remaining steps of the groups of a grid, and the time that they need."""

    def __init__(self, groups: Sequence[Group], jobs: int) -> None:
        self._left = {id(group): group.steps for group in groups}
        self._groups = groups
        self._running: set[int] = set()
        self._pace = Pace()
        self._jobs = jobs

    def tick(self, group: Group, step: int, speed: float) -> None:
        """A group has reached `step`, at `speed` steps per second since its last tick."""
        steps = self._left[id(group)] - (group.steps - step)
        self._left[id(group)] = group.steps - step
        self._running.add(id(group))
        if speed > 0:
            self._pace.observe(*_line(group), steps, steps / speed)

    def end(self, group: Group) -> None:
        """A group has ended, successfully or not."""
        self._left[id(group)] = 0
        self._running.discard(id(group))

    def group_seconds(self, group: Group) -> float | None:
        """Seconds until the group ends; None if unknown."""
        return self._pace.seconds(*_line(group), self._left[id(group)])

    def seconds(self) -> float | None:
        """Seconds until the grid ends; None if unknown."""
        running: list[float] = []
        waiting: list[float] = []
        for group in self._groups:
            seconds = self.group_seconds(group)
            if seconds is None:
                return None
            if seconds:
                (running if id(group) in self._running else waiting).append(seconds)
        return time_left(running, waiting, self._jobs)


def _line(group: Group) -> tuple[str, str]:
    cell = group.cells[0]
    return cell.task.name, cell.variant.label


class Board:
    """Shows nothing; base class of the others."""

    def __init__(self, groups: Sequence[Group], jobs: int, console: Console) -> None:
        self.console = console
        self.total = sum(len(group.cells) for group in groups)
        self._group = {id(cell): group for group in groups for cell in group.cells}
        self.ended = 0
        self.remaining = Remaining(groups, jobs)
        self.mutex = threading.Lock()
        self._display_works = True

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def event(self, group: Group, event: dict[str, Any]) -> None:
        """A worker reported an event."""
        with self.mutex:
            if event.get("event") == "tick":
                self.remaining.tick(group, int(event["step"]), float(event["speed"]))
            self._show(self.show_event, group, event)

    def outcome(self, outcome: Outcome) -> None:
        """A cell has ended, and its group with it."""
        with self.mutex:
            self.ended += 1
            self.remaining.end(self.group(outcome))
            if outcome.status != "skipped":  # after Ctrl-C, a line for each cell that waits would hide the others
                self._show(self.show_outcome, outcome)

    def group(self, outcome: Outcome) -> Group:
        """The group of the cell."""
        return self._group[id(outcome.cell)]

    def _show(self, show: Callable[..., None], *arguments: Any) -> None:
        """Display something. If that fails (closed pipe, full disk), training continues without display."""
        if self._display_works:
            try:
                show(*arguments)
            except (OSError, SystemExit):  # rich turns a broken pipe into SystemExit
                self._display_works = False

    def show_event(self, group: Group, event: dict[str, Any]) -> None:
        return None

    def show_outcome(self, outcome: Outcome) -> None:
        return None


class Lines(Board):
    """One line per evaluation and per cell that ended, for logs and pipes."""

    def show_event(self, group: Group, event: dict[str, Any]) -> None:
        if event.get("event") == "evaluation":
            seed = f"seed {event['seed']}"
            cell = f"{group.cells[0].variant.label} {group.cells[0].task.name} {seed}"
            self._line(f"{cell}: step {event['step']:,} of {group.steps:,}, return {event['mean']:.1f}")

        elif event.get("event") == "note":
            self._line(str(event["text"]))

    def show_outcome(self, outcome: Outcome) -> None:
        detail = f": {outcome.error}" if outcome.error else ""
        left = clock(self.remaining.seconds())
        self._line(f"[{self.ended}/{self.total}] {outcome.cell} {outcome.status}{detail}, {left} left")

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class Bars(Board):
    """A bar for each running group and one for the whole grid."""

    def __init__(self, groups: Sequence[Group], jobs: int, console: Console) -> None:
        super().__init__(groups, jobs, console)
        wide = console.width >= 100

        def column(field: str, justify: Literal["left", "right"] = "right") -> TextColumn:
            return TextColumn(f"{{task.{field}}}", justify=justify, table_column=Column(no_wrap=True))

        self._progress = Progress(
            # In a narrow terminal only the label is shortened.
            TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=24 if wide else 8),
            TextColumn("{task.percentage:>3.0f}%", table_column=Column(no_wrap=True)),
            column("fields[speed]"),
            column("fields[left]"),
            column("fields[last]"),
            console=console,
            expand=True,
        )
        self._done = 0
        self._overall = self._progress.add_task(
            f"0 of {self.total} done", total=self.total, speed="steps/s", left="left", last="return"
        )
        self._bars: dict[int, TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show_event(self, group: Group, event: dict[str, Any]) -> None:
        bar = self._bars.get(id(group))
        if bar is None:
            bar = self._progress.add_task(escape(str(group)), total=group.steps, speed="", left="-:--", last="")
            self._bars[id(group)] = bar
        if event.get("event") == "tick":
            left = clock(self.remaining.group_seconds(group))
            self._progress.update(
                bar, completed=event["step"], speed=f"{event['speed'] * len(group.cells):,.0f}", left=left
            )
            self._update_overall()
        elif event.get("event") == "evaluation":
            self._progress.update(bar, last=f"{event['mean']:.1f}")
        elif event.get("event") == "note":
            self._progress.console.print(escape(str(event["text"])))

    def show_outcome(self, outcome: Outcome) -> None:
        bar = self._bars.pop(id(self.group(outcome)), None)
        if bar is not None:
            self._progress.remove_task(bar)
        self._done += outcome.status == "done"
        self._update_overall()
        if outcome.status != "done":
            detail = f": {escape(outcome.error)}" if outcome.error else ""
            self._progress.console.print(f"{escape(str(outcome.cell))} {outcome.status}{detail}")

    def _update_overall(self) -> None:
        left = "" if self.ended == self.total else f", {clock(self.remaining.seconds())} left"
        text = f"{self._done} of {self.total} done{left}"
        self._progress.update(self._overall, completed=self._done, description=text)


def board(groups: Sequence[Group], jobs: int, console: Console, quiet: bool) -> Board:
    """The display: none if quiet, bars in a terminal, otherwise lines."""
    kind = Board if quiet else Bars if console.is_terminal else Lines
    return kind(groups, jobs, console)
