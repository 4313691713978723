"""The Typer applications `flowbench` and `flowbench list`, to which the other modules add their commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

Function = TypeVar("Function", bound=Callable[..., Any])


class _SwitchesWithoutValue:
    """Commands whose help shows a switch as `--force`; recent versions of Typer add `<bool>`."""

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
        return params


class Command(_SwitchesWithoutValue, TyperCommand):
    """A command."""


class Group(_SwitchesWithoutValue, TyperGroup):
    """A group of commands."""


class App(typer.Typer):
    """Typer with these commands and groups."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=Group, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[Function], Function]:
        return super().command(name, cls=Command, **options)


app = App(
    name="flowbench",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Compare online-RL algorithms: train them on tasks with several seeds, and report scores with intervals.",
)
list_app = App(no_args_is_help=True, help="List suites, algorithms and hyperparameters.")
app.add_typer(list_app, name="list")
