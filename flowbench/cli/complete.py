"""Shell completion (`flowbench --install-completion`): what can follow, without importing torch or a simulator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import typer

Values = Callable[[typer.Context, str], Iterable[str]]


def suites(context: typer.Context, text: str) -> Iterable[str]:
    """The shipped suites. With no match the shell completes files, such as your own suite."""
    from suites import names

    return names()


def tasks(context: typer.Context, text: str) -> Iterable[str]:
    """The tasks of the suite given before, or of all suites."""
    import suites as package

    given = context.params.get("suite")
    names = [given] if isinstance(given, str) else [*(given or package.names())]
    return [task.name for name in names for task in package.load(name, check_tasks=False).tasks]


def algos(context: typer.Context, text: str) -> Iterable[str]:
    """The algorithms, and after a bracket the hyperparameters: ``flowrl[tau=``."""
    import algos as package

    name, bracket, inside = text.partition("[")
    if not bracket:
        return package.names()
    before = name + bracket + "".join(inside.rpartition(",")[:2])
    return [f"{before}{key}=" for key in package.find(name).hyperparameters()]


def settings(context: typer.Context, text: str) -> Iterable[str]:
    """``lr=`` and ``flowrl.lr=`` for the algorithms given before, or for all."""
    import algos as package
    from flowbench.plan.overrides import split_outside_brackets

    given = context.params.get("algo")
    texts = [given] if isinstance(given, str) else given or ()
    named = [each.partition("[")[0] for algo in texts for each in split_outside_brackets(algo)] or package.names()
    keys = {name: package.find(name).hyperparameters() for name in named}
    shared = dict.fromkeys(key for own in keys.values() for key in own)
    return [f"{key}=" for key in shared] + [f"{name}.{key}=" for name, own in keys.items() for key in own]


# By the name of the parameter; any other with choices in its metavar, such as table|json, completes these.
VALUES: dict[str, Values] = {
    "suite": suites,
    "task": tasks,
    "loop": tasks,
    "algo": algos,
    "over": algos,
    "baseline": algos,
    "settings": settings,
    "device": lambda context, text: ("auto", "cpu", "cuda"),
    "precision": lambda context, text: ("auto", "float32", "tf32", "bfloat16"),
    "engine": lambda context, text: ("local", "ray"),
    "log": lambda context, text: ("tensorboard", "wandb"),
    "env": lambda context, text: _environments(),
}
LISTS = ("algo", "task", "log")  # also "sac,td3": the last one is completed


def completing(app: typer.Typer) -> Any:
    """The command of the application, whose options and arguments complete their values."""
    command = typer.main.get_command(app)
    _attach(command)
    return command


def _attach(command: Any) -> None:
    for parameter in command.params:
        choices = (parameter.metavar or "").split("|")
        values = VALUES.get(parameter.name)
        if values is None and len(choices) > 1:
            values = lambda context, text, choices=choices: choices  # noqa: E731
        if values is not None:
            parameter._custom_shell_complete = _matches(values, parameter.name in LISTS)
    for below in getattr(command, "commands", {}).values():
        _attach(below)


def _matches(values: Values, in_list: bool) -> Callable[[typer.Context, Any, str], list[str]]:
    def complete(context: typer.Context, parameter: Any, text: str) -> list[str]:
        before, last = _split(text) if in_list else ("", text)
        try:
            found = list(values(context, last))
        except (ValueError, OSError):  # a name given before does not exist: there is nothing to complete
            return []
        return [before + each for each in found if each.startswith(last)]

    return complete


def _split(text: str) -> tuple[str, str]:
    """What precedes the last item of a list, with its comma, and that item. Commas in brackets do not count."""
    depth = 0
    for position in range(len(text) - 1, -1, -1):
        depth += (text[position] == "]") - (text[position] == "[")
        if text[position] == "," and depth == 0 and text.count("[", 0, position) == text.count("]", 0, position):
            return text[: position + 1], text[position + 1 :]
    return "", text


def _environments() -> Iterable[str]:
    import suites as package

    return package.tasks("gymnasium")
