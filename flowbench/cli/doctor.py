"""`flowbench doctor`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flowbench.cli.app import app
from flowbench.cli.options import RESULTS, Results

STYLES = {"ok": "green", "missing": "yellow", "broken": "red"}


@app.command(epilog="Example: flowbench doctor --suite dmc-hard")
def doctor(
    suite: Annotated[
        str | None,
        typer.Option(metavar="SUITE", help="Make every task of this suite once: its name or file."),
    ] = None,
    results: Results = RESULTS,
) -> int:
    """Check what is installed and works, and print how to fix the rest; exits with 1 if something needed fails."""
    import suites
    from flowbench import doctor as diagnosis

    console = Console()
    with Console(stderr=True).status("checking"):
        findings = diagnosis.examine(results, suites.load(suite, check_tasks=False) if suite else None)
    table = Table("check", "state", "details", box=box.SIMPLE_HEAD, pad_edge=False)
    for found in findings:
        state = Text(found.state, style=STYLES[found.state])
        table.add_row(Text(found.what), state, Text(found.details if found.needed else f"{found.details} (optional)"))
    console.print(table)
    for found in findings:
        if found.fix:  # on one line without wrapping, so that it can be copied
            console.print(Text(f"{found.what}: {found.fix}"), soft_wrap=True)
    return int(any(found.needed and found.state != diagnosis.OK for found in findings))
