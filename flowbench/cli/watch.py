"""`flowbench watch`."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flowbench.cli.app import app
from flowbench.cli.options import RESULTS, Results, named

if TYPE_CHECKING:
    from flowbench.monitor.dashboard import Dashboard
    from flowbench.monitor.snapshot import Snapshot, Watcher


@app.command(epilog="Example: flowbench watch --suite quick")
def watch(
    suite: Annotated[list[str] | None, typer.Option(metavar="SUITE", help="Only this suite; may be repeated.")] = None,
    algo: Annotated[
        list[str] | None, typer.Option(metavar="ALGO", help="Only this algorithm; may be repeated.")
    ] = None,
    results: Results = RESULTS,
    every: Annotated[str, typer.Option(metavar="SECONDS", help="Time between two looks.")] = "2",
    once: Annotated[bool, typer.Option("--once", help="Print how things are, and end.")] = False,
) -> None:
    """Watch a grid that is running, here or on machines that share the results folder.

    Ends with the grid, or by Ctrl-C, which leaves the grid alone. Where there is no terminal it is as with --once.
    """
    from flowbench.common import duration
    from flowbench.monitor.snapshot import Watcher

    seconds = duration.parse("--every", every)
    watcher = Watcher(results, *named(suite, algo))
    snapshot = watcher.look(check=True)
    console = Console()
    if not once and sys.stdout.isatty() and not console.is_dumb_terminal:
        snapshot = _follow(watcher, snapshot, seconds, console, str(results))
    console.print(_drawn(snapshot, str(results), fits=False))


def _follow(watcher: Watcher, snapshot: Snapshot, seconds: float, console: Console, title: str) -> Snapshot:
    """Draw the grid until it is finished or Ctrl-C; how it was last."""
    from rich.live import Live

    with (
        suppress(KeyboardInterrupt),
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while not snapshot.finished:
            live.update(_drawn(snapshot, title, fits=True), refresh=True)
            time.sleep(seconds)
            snapshot = watcher.look()
    return snapshot


def _drawn(snapshot: Snapshot, title: str, fits: bool) -> Dashboard:
    from flowbench.monitor.dashboard import Dashboard

    return Dashboard(snapshot, f"{title}, {datetime.now():%H:%M:%S}", fits)
