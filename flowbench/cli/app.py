"""The command `flowbench` and its group `list`, which the commands join."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="flowbench",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Settles whether one online-RL algorithm beats another: trains grids of runs and reports on them.",
)
list_app = typer.Typer(no_args_is_help=True, help="List what there is to run.")
app.add_typer(list_app, name="list")
