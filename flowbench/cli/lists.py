"""`flowbench list`."""

from __future__ import annotations

from typing import Annotated

import typer

from flowbench.cli.app import list_app
from flowbench.cli.options import table


@list_app.command("suites", epilog="Example: flowbench list suites")
def list_suites() -> None:
    """List the suites that flowbench ships."""
    import suites

    rows = []
    for name in suites.names():
        suite = suites.load(name, check_tasks=False)
        rows.append([name, str(len(suite.tasks)), f"{suite.steps:,}", suite.title])
    table(["suite", "tasks", "steps", "description"], rows)


@list_app.command("tasks", epilog="Example: flowbench list tasks dmc-hard")
def list_tasks(suite: Annotated[str, typer.Argument(metavar="SUITE", help="A suite's name or YAML file.")]) -> None:
    """List a suite's tasks with their sources and the returns that are scores 0 and 1."""
    import suites

    tasks = suites.load(suite).tasks
    rows = [[task.name, task.source, f"{task.score.low:g}", f"{task.score.high:g}"] for task in tasks]
    table(["task", "source", "score 0 at", "score 1 at"], rows)


@list_app.command("algos", epilog="Example: flowbench list algos")
def list_algos() -> None:
    """List the algorithms with their papers."""
    import algos

    rows = []
    for name in algos.names():
        try:
            rows.append([name, *algos.find(name).about()])
        except algos.AlgorithmError as error:  # list the others although this one is broken
            rows.append([name, f"({error})", ""])
    table(["algorithm", "description", "paper"], rows)


@list_app.command("params", epilog="Example: flowbench list params flowrl")
def list_params(
    algo: Annotated[str, typer.Argument(metavar="ALGO", help="An algorithm's name, or path/to/file.py:Class.")],
) -> None:
    """List an algorithm's hyperparameters with their defaults; `run --set` changes them."""
    import algos
    from flowbench.plan import overrides

    rows = [
        [field.name, field.kind, field.default, field.comment] for field in overrides.describe(algos.find(algo).load())
    ]
    table(["hyperparameter", "type", "default", "description"], rows)
