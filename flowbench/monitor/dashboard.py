"""Displays the state of a grid in a terminal: progress, running cells with their learning curves, and failures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flowbench.common.duration import clock
from flowbench.common.text_table import plural
from flowbench.monitor.snapshot import Failure, Running, Snapshot

STYLES = {"done": "green", "running": "cyan", "queued": "", "failed": "red", "stopped": "yellow"}
BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.-:=+*#"
FAILURES = 3  # shown at most
MIN_NAME, CURVE = 8, (10, 24)  # characters: minimum of a shortened name; minimum and maximum of a curve
COLUMNS = ("task", "algorithm", "seed", "step", "steps/s", "return", "curve", "left")


@dataclass(frozen=True)
class Dashboard:
    """A snapshot, displayed in the width of the terminal, and in its height if `fit_screen` is set."""

    snapshot: Snapshot
    title: str
    fit_screen: bool  # show only as many running cells as the screen has room for

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, ascii_only = options.max_width, options.ascii_only
        draw = Renderer(width, ascii_only)
        above = [draw.line(self.title, "bold"), *self._overall(draw)]
        below = [*draw.failures(self.snapshot.failures), *draw.problems(self.snapshot.problems)]
        yield from above
        if running := self.snapshot.running:
            # Three more lines: a blank one, the header, and the number of cells not shown.
            room = options.size.height - len(above) - len(below) - 3 if self.fit_screen else len(running)
            shown = running if len(running) <= room + 1 else running[: max(1, room)]
            yield Text()
            yield draw.cells(shown)
            if len(shown) < len(running):
                yield draw.line(f"and {len(running) - len(shown)} more running", "dim")
        yield from below

    def _overall(self, draw: Renderer) -> RenderResult:
        snapshot = self.snapshot
        if not snapshot.counts:
            yield draw.line("no runs here yet")
            return
        left = "" if snapshot.finished else f", {clock(snapshot.left)} left"
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=1.0, completed=snapshot.share, width=min(40, draw.width // 2)),
            # Rounded down, so that 100 % means that everything is done.
            Text(f"{math.floor(100 * snapshot.share)}% of {sum(snapshot.counts.values())} cells{left}"),
        )
        yield bar
        counted = [(status, snapshot.counts[status]) for status in STYLES if status in snapshot.counts]
        yield Text(", ").join(Text(f"{count} {status}", STYLES[status]) for status, count in counted)
        if not snapshot.running and not snapshot.finished:
            yield draw.line("nothing is training now; flowbench run trains the queued cells", "yellow")


@dataclass(frozen=True)
class Renderer:
    """Renders the parts of the display in a given width, in ASCII if the terminal has nothing else."""

    width: int
    ascii_only: bool

    def line(self, text: str, style: str = "") -> Text:
        """One line of text, cut off at the width."""
        text = self._plain(" ".join(text.split()))
        if len(text) > self.width:
            text = text[: self.width - len(self._dots)] + self._dots
        return Text(text, style, no_wrap=True)

    def cells(self, running: Sequence[Running]) -> Table:
        """One line per running cell. A narrow terminal shows shortened names; a very narrow one shows no curves."""
        suites = {cell.suite for cell in running}
        names = [
            (self._plain(f"{cell.suite}/{cell.task}" if len(suites) > 1 else cell.task), self._plain(cell.algo))
            for cell in running
        ]
        numbers = [
            (
                str(cell.seed),
                f"{short(cell.step):>5}/{short(cell.steps)}",  # padded to its final width, so that columns do not move
                "" if cell.speed is None else short(cell.speed),
                "" if cell.last is None else f"{cell.last:.1f}",
                clock(cell.left),
            )
            for cell in running
        ]
        seed, step, speed, last, left = ([row[k] for row in numbers] for k in range(5))
        fixed = [longest(each) for each in ([*seed, "seed"], [*step, "step"], [*speed, "steps/s"], [*last, "return"])]
        room = self.width - sum(fixed) - longest([*left, "left"]) - (len(COLUMNS) - 1)
        curves = room >= CURVE[0] + 2 * MIN_NAME
        rest = room - CURVE[0] if curves else room + 1  # without the column its gap is free, too
        task, algo = share(rest, *(longest([*each, "algorithm"]) for each in zip(*names, strict=True)))
        curve_width = min(CURVE[1], room - task - algo)
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
        for name in COLUMNS if curves else [name for name in COLUMNS if name != "curve"]:
            justify: Literal["left", "right"] = "left" if name in ("task", "algorithm", "curve") else "right"
            table.add_column(name, no_wrap=True, justify=justify, min_width=curve_width if name == "curve" else None)
        for cell, named, numbered in zip(running, names, numbers, strict=True):
            row = [self.shorten(named[0], task), self.shorten(named[1], algo), *numbered]
            if curves:
                row.insert(-1, sparkline(cell.curve, curve_width, ASCII_BLOCKS if self.ascii_only else BLOCKS))
            table.add_row(*map(Text, row))
        return table

    def failures(self, failures: Sequence[Failure]) -> list[Text]:
        """The latest failures, and the number of the others."""
        width = self.width // 5
        lines = [
            self.line(
                f"{self.shorten(each.task, width)} {self.shorten(each.algo, width)} seed {each.seed}: {each.error}"
            )
            for each in failures[:FAILURES]
        ]
        if len(failures) > FAILURES:
            lines.append(self.line(f"and {plural(len(failures) - FAILURES, 'earlier failure')}", "dim"))
        return [Text(), Text("failed (latest first)", "red"), *lines] if lines else []

    def problems(self, problems: Sequence[str]) -> list[Text]:
        """The first problem, and how many runs cannot be read."""
        if not problems:
            return []
        return [Text(), self.line(f"{plural(len(problems), 'run')} cannot be read: {problems[0]}", "yellow")]

    def shorten(self, name: str, width: int) -> str:
        """A name, without its middle if it is too long: the names of variants differ at their ends."""
        name = self._plain(name)
        if len(name) <= width:
            return name
        kept = max(2, width - len(self._dots))
        return name[: (kept + 1) // 2] + self._dots + name[len(name) - kept // 2 :]

    @property
    def _dots(self) -> str:
        return ".." if self.ascii_only else "…"

    def _plain(self, text: str) -> str:
        """Text without control characters: names and errors come from files, which may contain any."""
        printable = "".join(each if each.isprintable() else "?" for each in text)
        return printable.encode("ascii", "replace").decode() if self.ascii_only else printable


def sparkline(curve: Sequence[float], width: int, blocks: str) -> str:
    """A curve as blocks from its lowest to its highest value. Too many values are averaged; "?" is not a number."""
    count = min(width, len(curve))
    bins = [curve[k * len(curve) // count : (k + 1) * len(curve) // count] for k in range(count)]
    means = [sum(each) / len(each) for each in bins]
    finite = [mean for mean in means if math.isfinite(mean)]
    if not finite:
        return "?" * count
    low, high = min(finite), max(finite)
    scale = (len(blocks) - 1) / (high - low) if high > low else 0.0
    return "".join(blocks[round((mean - low) * scale)] if math.isfinite(mean) else "?" for mean in means)


def short(number: float) -> str:
    """A number in at most five characters: 980, 12.5k, 1M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return (
                f"{math.floor(number / size * 10) / 10:g}{unit}" if number < 100 * size else f"{number // size:g}{unit}"
            )
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"


def longest(texts: Sequence[str]) -> int:
    """The length of the longest text."""
    return max(map(len, texts))


def share(room: int, task: int, algo: int) -> tuple[int, int]:
    """The widths of the two names: what they need, or else their shares of the room."""
    room = max(room, 2 * MIN_NAME)
    if task + algo <= room:
        return task, algo
    half = room // 2
    if task <= half:
        return task, room - task
    if algo <= room - half:
        return room - algo, algo
    return half, room - half
