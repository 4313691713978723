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
        str | None, typer.Option(metavar="SUITE", help="What this suite needs; a name, or path/to/suite.yaml.")
    ] = None,
    results: Results = RESULTS,
) -> int:
    """Tell what is installed and works, what is missing, and what mends it; exits 1 where something needed does not."""
    import suites
    from flowbench import doctor as diagnosis

    console = Console()
    with Console(stderr=True).status("looking"):
        findings = diagnosis.examine(results, suites.load(suite, check_tasks=False) if suite else None)
    table = Table("what", "state", "", box=box.SIMPLE_HEAD, pad_edge=False)
    for found in findings:
        state = Text(found.state, style=STYLES[found.state])
        table.add_row(Text(found.what), state, Text(found.says if found.needed else f"{found.says} (optional)"))
    console.print(table)
    for found in findings:
        if found.mend:  # a line of its own, never wrapped, to be copied
            console.print(Text(f"{found.what}: {found.mend}"), soft_wrap=True)
    return int(any(found.needed and found.state != diagnosis.OK for found in findings))
