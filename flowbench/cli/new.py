"""`flowbench new`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowbench.cli.app import App, app

if TYPE_CHECKING:
    from flowbench.plan import templates

new_app = App(no_args_is_help=True, help="Write a file to begin with: an algorithm or a suite of your own.")
app.add_typer(new_app, name="new")


@new_app.command("algo", epilog="Example: flowbench new algo my_agent")
def new_algo(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name, such as my_agent or MyAgent.")],
) -> None:
    """Write a short actor-critic that learns, with comments, into a file here. Nothing is overwritten."""
    from flowbench.plan import templates

    _show(templates.new_algorithm(name, Path()))


@new_app.command("suite", epilog="Example: flowbench new suite my-suite")
def new_suite(name: Annotated[str, typer.Argument(metavar="NAME", help="Its name, such as my-suite.")]) -> None:
    """Write a suite of two small tasks, with comments, into a file here. Nothing is overwritten."""
    from flowbench.plan import templates

    _show(templates.new_suite(name, Path()))


def _show(made: templates.NewFile) -> None:
    typer.echo(f"wrote {made.path}; it works as it is:\n{made.command}")
