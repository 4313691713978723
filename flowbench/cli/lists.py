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


@list_app.command("params", epilog="Example: flowbench list params flowrl --suite quick")
def list_params(
    algo: Annotated[
        str, typer.Argument(metavar="ALGO", help="An algorithm as in `run`: name, name\\[key=value], or file.py:Class.")
    ],
    suite: Annotated[
        str | None, typer.Option(metavar="SUITE", help="Also show the values that runs of this suite have.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="With --suite: a value as in `run`; may be repeated."),
    ] = None,
) -> None:
    """List an algorithm's hyperparameters with their defaults, and with --suite the values that a run would have."""
    import algos
    from flowbench.common.errors import UsageError
    from flowbench.plan import overrides

    if suite is None:
        if settings:
            raise UsageError("--set shows the values of a run: name its suite with --suite")
        fields = overrides.describe(algos.find(algo).load())
        rows = [[field.name, field.kind, field.default, field.comment] for field in fields]
        table(["hyperparameter", "type", "default", "description"], rows)
        return
    import suites
    from flowbench.plan import expand
    from flowbench.plan.settings import LEGEND, resolved

    loaded = suites.load(suite, check_tasks=False)
    for variant in expand.variants(loaded, [algo], settings or [], expand.protocol(loaded)):
        rows = [
            [each.field.name, each.field.kind, each.field.default, str(each), each.field.comment]
            for each in resolved(loaded, variant)
        ]
        table(["hyperparameter", "type", "default", f"in {loaded.name}", "description"], rows)
        typer.echo(LEGEND)
