"""`flowbench verify`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flowbench.cli.app import app
from flowbench.cli.options import RESULTS, Results

if TYPE_CHECKING:
    from flowbench.evaluate.verify import Verification

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
    from flowbench.common.errors import printable
    from flowbench.evaluate import verify as verification
    from flowbench.store.manage import run_folder

    folder = run_folder(results, run)
    with Console(stderr=True).status("training again") as status:
        found = verification.verify(
            folder, algo, lambda step, steps: status.update(f"training again: step {step:,} of {steps:,}")
        )
    for line in _lines(found):
        print(printable(line))
    return int(not found.repeats)


def _lines(found: Verification) -> Iterator[str]:
    """The result, the first differences, and what was not as recorded."""
    count = len(found.differences)
    if found.error:
        yield f"{found.run}: could not be trained again: {found.error}"
    elif found.repeats:
        yield f"{found.run}: all {found.evaluations} evaluations repeat exactly"
    else:
        yield f"{found.run}: {count} of {found.evaluations} evaluations differ"
    yield from (f"  {text}" for text in found.differences[:SHOWN])
    if count > SHOWN:
        yield f"  and {count - SHOWN} more"
    if found.conditions:
        yield "not as recorded:"
        yield from (f"  {text}" for text in found.conditions)
