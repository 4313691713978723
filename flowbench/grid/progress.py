"""What a running grid shows: bars in a terminal, a line an evaluation elsewhere, or nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from flowbench.common.duration import clock
from flowbench.schedule.groups import Group
from flowbench.schedule.runner import Outcome

DECAY = 0.95  # weight of what was known before each new tick: the estimate rests on the last twenty or so


class Pace:
    """How fast each algorithm trains, and from that how long the rest of the grid takes."""

    def __init__(self, groups: Sequence[Group], jobs: int) -> None:
        self._left = {id(group): group.steps for group in groups}
        self._algorithm = {id(group): group.cells[0].variant.label for group in groups}
        self._spent: dict[str, tuple[float, float]] = {}  # lately: seconds, steps
        self._jobs = jobs

    def tick(self, group: Group, step: int, speed: float) -> None:
        """A group has reached `step`, since its last tick at `speed` steps a second."""
        label = self._algorithm[id(group)]
        steps = self._left[id(group)] - (group.steps - step)
        self._left[id(group)] = group.steps - step
        if speed > 0 and steps > 0:
            # Seconds and steps decay apart, so that an evaluation counts for the time it takes, not for its slowness.
            seconds, taken = self._spent.get(label, (0.0, 0.0))
            self._spent[label] = (DECAY * seconds + steps / speed, DECAY * taken + steps)

    def end(self, group: Group) -> None:
        """A group has ended, however."""
        self._left[id(group)] = 0

    def group_seconds(self, group: Group) -> float | None:
        """Seconds the group still needs; None while nothing is known."""
        pace = self._seconds_a_step().get(self._algorithm[id(group)])
        return None if pace is None else pace * self._left[id(group)]

    def seconds(self) -> float | None:
        """Seconds the whole grid still needs; an algorithm not yet seen is taken to be like the mean of the others."""
        known = self._seconds_a_step()
        if not known:
            return None
        usual = sum(known.values()) / len(known)
        work = [left * known.get(self._algorithm[key], usual) for key, left in self._left.items()]
        return max(sum(work) / self._jobs, max(work))

    def _seconds_a_step(self) -> dict[str, float]:
        return {label: seconds / steps for label, (seconds, steps) in self._spent.items()}


class Board:
    """Shows nothing; the others build on it."""

    def __init__(self, groups: Sequence[Group], jobs: int, console: Console) -> None:
        self.console = console
        self.total = sum(len(group.cells) for group in groups)
        self._group = {id(cell): group for group in groups for cell in group.cells}
        self.ended = 0
        self.pace = Pace(groups, jobs)
        self.mutex = threading.Lock()
        self._read = True

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def event(self, group: Group, event: dict[str, Any]) -> None:
        """Something a worker told."""
        with self.mutex:
            if event.get("event") == "tick":
                self.pace.tick(group, int(event["step"]), float(event["speed"]))
            self._show(self.show_event, group, event)

    def outcome(self, outcome: Outcome) -> None:
        """A cell has ended, and its group with it."""
        with self.mutex:
            self.ended += 1
            self.pace.end(self.group(outcome))
            self._show(self.show_outcome, outcome)

    def group(self, outcome: Outcome) -> Group:
        """The group that the outcome's cell is in."""
        return self._group[id(outcome.cell)]

    def _show(self, show: Callable[..., None], *what: Any) -> None:
        """Training goes on when nobody can read of it: a pipe's reader has gone, or the disk of a log is full."""
        if self._read:
            try:
                show(*what)
            except (OSError, SystemExit):  # rich turns a broken pipe into the other
                self._read = False

    def show_event(self, group: Group, event: dict[str, Any]) -> None:
        return None

    def show_outcome(self, outcome: Outcome) -> None:
        return None


class Lines(Board):
    """A line an evaluation and an ended cell, for logs and pipes."""

    def show_event(self, group: Group, event: dict[str, Any]) -> None:
        if event.get("event") == "evaluation":
            seed = f"seed {event['seed']}"
            cell = f"{group.cells[0].variant.label} {group.cells[0].task.name} {seed}"
            self._line(f"{cell}: step {event['step']:,} of {group.steps:,}, return {event['mean']:.1f}")

        elif event.get("event") == "note":
            self._line(str(event["text"]))

    def show_outcome(self, outcome: Outcome) -> None:
        detail = f": {outcome.error}" if outcome.error else ""
        self._line(
            f"[{self.ended}/{self.total}] {outcome.cell} {outcome.status}{detail}, {clock(self.pace.seconds())} left"
        )

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class Bars(Board):
    """A bar a running group and one for the whole grid."""

    def __init__(self, groups: Sequence[Group], jobs: int, console: Console) -> None:
        super().__init__(groups, jobs, console)
        wide = console.width >= 100

        def column(field: str, justify: Literal["left", "right"] = "right") -> TextColumn:
            return TextColumn(f"{{task.{field}}}", justify=justify, table_column=Column(no_wrap=True))

        self._progress = Progress(
            # The label alone gives way where there is little room.
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show_event(self, group: Group, event: dict[str, Any]) -> None:
        bar = self._bars.get(id(group))
        if bar is None:
            bar = self._progress.add_task(escape(str(group)), total=group.steps, speed="", left="-:--", last="")
            self._bars[id(group)] = bar
        if event.get("event") == "tick":
            left = clock(self.pace.group_seconds(group))
            self._progress.update(
                bar, completed=event["step"], speed=f"{event['speed'] * len(group.cells):,.0f}", left=left
            )
            self._tell_overall()
        elif event.get("event") == "evaluation":
            self._progress.update(bar, last=f"{event['mean']:.1f}")
        elif event.get("event") == "note":
            self._progress.console.print(escape(str(event["text"])))

    def show_outcome(self, outcome: Outcome) -> None:
        bar = self._bars.pop(id(self.group(outcome)), None)
        if bar is not None:
            self._progress.remove_task(bar)
        self._done += outcome.status == "done"
        self._tell_overall()
        if outcome.status != "done":
            detail = f": {escape(outcome.error)}" if outcome.error else ""
            self._progress.console.print(f"{escape(str(outcome.cell))} {outcome.status}{detail}")

    def _tell_overall(self) -> None:
        left = "" if self.ended == self.total else f", {clock(self.pace.seconds())} left"
        text = f"{self._done} of {self.total} done{left}"
        self._progress.update(self._overall, completed=self._done, description=text)


def board(groups: Sequence[Group], jobs: int, console: Console, quiet: bool) -> Board:
    """The board that fits: none when quiet, bars in a terminal, lines elsewhere."""
    kind = Board if quiet else Bars if console.is_terminal else Lines
    return kind(groups, jobs, console)
