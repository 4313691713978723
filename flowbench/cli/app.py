"""The Typer applications `flowbench` and `flowbench list`, to which the other modules add their commands."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="flowbench",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Compare online-RL algorithms: train them on tasks with several seeds, and report scores with intervals.",
)
list_app = typer.Typer(no_args_is_help=True, help="List suites, algorithms and hyperparameters.")
app.add_typer(list_app, name="list")
