"""`flowbench verify`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from flowbench.cli.app import app
from flowbench.cli.options import RESULTS, Results

SHOWN = 3  # evaluations that differ


@app.command(epilog="Example: flowbench verify results/cpu/small/walker-walk/td3/default-*/seed-0")
def verify(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or its path below --results.")],
    algo: Annotated[
        str | None,
        typer.Option(metavar="FILE.py:CLASS", help="The algorithm's file, if it is not part of flowbench."),
    ] = None,
    results: Results = RESULTS,
) -> int:
    """Train a finished run again, with its recorded settings, and check that its evaluations repeat exactly.

    It trains in a temporary folder and changes nothing in the results. The exit status is 1 if an evaluation differs.
    """
    from flowbench.evaluate import verify as verification
    from flowbench.store.manage import run_folder

    folder = run_folder(results, run)
    with Console(stderr=True).status("training again") as status:
        found = verification.verify(
            folder, algo, lambda step, steps: status.update(f"training again: step {step:,} of {steps:,}")
        )
    count = len(found.differences)
    if found.error:
        print(f"{found.run}: could not be trained again: {found.error}")
    elif found.repeats:
        print(f"{found.run}: all {found.evaluations} evaluations repeat exactly")
    else:
        print(f"{found.run}: {count} of {found.evaluations} evaluations differ")
    for text in found.differences[:SHOWN]:
        print(f"  {text}")
    if count > SHOWN:
        print(f"  and {count - SHOWN} more")
    if found.conditions:
        print("not as recorded:")
        for text in found.conditions:
            print(f"  {text}")
    return int(not found.repeats)
