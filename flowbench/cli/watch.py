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
    suite: Annotated[
        list[str] | None, typer.Option(metavar="SUITE", help="Show only this suite; may be repeated.")
    ] = None,
    algo: Annotated[
        list[str] | None, typer.Option(metavar="ALGO", help="Show only this algorithm; may be repeated.")
    ] = None,
    results: Results = RESULTS,
    every: Annotated[str, typer.Option(metavar="SECONDS", help="The time between two updates.")] = "2",
    once: Annotated[bool, typer.Option("--once", help="Print the current state once and exit.")] = False,
) -> None:
    """Show the live progress of a grid that trains on this machine, or on machines that share the results folder.

    It ends when the grid ends, or at Ctrl-C, which does not stop the grid, and leaves its last view.
    If there is no results folder yet, it waits for one.
    If the output is not a terminal, it prints the state once.
    """
    from flowbench.common import duration
    from flowbench.monitor.snapshot import Watcher

    seconds = duration.parse("--every", every)
    watcher = Watcher(results, *named(suite, algo))
    console = Console()
    live = not once and _is_terminal(console)
    snapshot = watcher.look(check=not live or results.is_dir())
    if live:
        snapshot = _follow(watcher, snapshot, seconds, console, str(results))
    console.print(_dashboard(snapshot, str(results), fit_screen=False))


def _is_terminal(console: Console) -> bool:
    return sys.stdout.isatty() and not console.is_dumb_terminal


def _follow(watcher: Watcher, snapshot: Snapshot, seconds: float, console: Console, title: str) -> Snapshot:
    """Update the display until the grid is finished or Ctrl-C is pressed; return the last snapshot."""
    from rich.live import Live

    with (
        suppress(KeyboardInterrupt),
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while not snapshot.finished:
            live.update(_dashboard(snapshot, title, fit_screen=True), refresh=True)
            time.sleep(seconds)
            snapshot = watcher.look()
    return snapshot


def _dashboard(snapshot: Snapshot, title: str, fit_screen: bool) -> Dashboard:
    from flowbench.monitor.dashboard import Dashboard

    return Dashboard(snapshot, f"{title}, {datetime.now():%H:%M:%S}", fit_screen)
