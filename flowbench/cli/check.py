"""`flowbench check`."""

from __future__ import annotations

from typing import Annotated

import typer

from flowbench.cli.app import app


@app.command(epilog="Example: flowbench check sac")
def check(
    algo: Annotated[
        str, typer.Argument(metavar="ALGO", help="An algorithm as in `run`: name, name\\[key=value], or file.py:Class.")
    ],
) -> int:
    """Test that an algorithm trains correctly: alone, stacked and resumed. The exit status is 1 if a check fails."""
    from flowbench import check as checks
    from flowbench.common.errors import printable

    variant = checks.find(algo)
    passed = []
    for finding in checks.check(variant.entry.load(), variant.config):
        passed.append(finding.passed)
        text = "" if finding.passed else f": {finding.reason} ({finding.place})"
        typer.echo(printable(f"{'passed' if finding.passed else 'FAILED'}  {finding.what}{text}"))
    if all(passed):
        typer.echo(checks.speed(variant))
    typer.echo(f"{variant.label}: {sum(passed)} of {len(passed)} checks passed")
    return int(not all(passed))
