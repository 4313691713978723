"""`flowbench results`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flowbench.cli.app import App, app
from flowbench.cli.options import RESULTS, Results, named, table, warn

results_app = App(no_args_is_help=True, help="List, show, compare, remove and merge what is in a folder.")
app.add_typer(results_app, name="results")

VARIANT = "Its config id, its label or name as in `run`, or the folder of one of its runs."


@results_app.command("ls", epilog="Example: flowbench results ls --suite quick")
def list_results(
    suite: Annotated[list[str] | None, typer.Option(metavar="SUITE", help="Only this suite; may be repeated.")] = None,
    algo: Annotated[
        list[str] | None, typer.Option(metavar="ALGO", help="Only this algorithm; may be repeated.")
    ] = None,
    results: Results = RESULTS,
) -> None:
    """List the variants in a results folder, with their runs, size on disk and the time of the last run."""
    from flowbench.common.errors import UsageError
    from flowbench.common.text_table import TextTable, ranges, show
    from flowbench.store import manage

    found = manage.variants(results, *named(suite, algo))
    if not found:
        raise UsageError(f"{str(results)!r} contains no runs yet; start some with `flowbench run`")
    rows = [
        (
            each.label,
            each.suite,
            each.config_id,
            str(len({run.task.name for run in each.runs})),
            ranges({run.seed for run in each.runs}),
            each.statuses(),
            f"{each.size() / 1e6:.1f} MB",
            each.ended(),
        )
        for each in found
    ]
    columns = ("algorithm", "suite", "config", "tasks", "seeds", "runs", "size", "last end (UTC)")
    show(TextTable(str(results), columns, tuple(rows)), Console())


@results_app.command(
    "show", epilog="Example: flowbench results show results/quick/cartpole-swingup/sac/default-*/seed-0"
)
def show_run(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or its path below --results.")],
    format: Annotated[str, typer.Option("--format", metavar="table|json", help="How to print.")] = "table",
    results: Results = RESULTS,
) -> None:
    """Show the record of one run: what was run, where, with which versions, and how it ended."""
    from flowbench.common.errors import UsageError, one_of
    from flowbench.store import manage, records

    one_of("format", format, ("table", "json"))
    folder = manage.run_folder(results, run)
    try:
        record = records.read_run(folder)
    except records.NotARun as error:
        raise UsageError(str(error)) from error
    if format == "json":
        typer.echo(json.dumps(record.to_builtins(), indent=2))
        return
    facts = {**manage.facts(record), "status": records.status_now(folder, record)}
    table([str(folder), ""], [[key, value] for key, value in facts.items()])


@results_app.command("diff", epilog="Example: flowbench results diff sac td3")
def diff_variants(
    one: Annotated[str, typer.Argument(metavar="A", help=f"A variant. {VARIANT}")],
    other: Annotated[str, typer.Argument(metavar="B", help="The variant to compare it with.")],
    suite: Annotated[list[str] | None, typer.Option(metavar="SUITE", help="Look in this suite only.")] = None,
    results: Results = RESULTS,
) -> None:
    """Show two configurations next to each other: only what differs, also in versions, hardware and seeds."""
    from flowbench.store import manage

    found = [manage.find(results, name, suite or ()) for name in (one, other)]
    rows = [list(row) for row in manage.differences(*found)]
    table(["", *(f"{each.label} ({each.config_id})" for each in found)], rows)


@results_app.command("rm", epilog="Example: flowbench results rm --dead --yes")
def remove_variants(
    variant: Annotated[list[str] | None, typer.Argument(metavar="VARIANT", help=f"Variants. {VARIANT}")] = None,
    dead: Annotated[
        bool,
        typer.Option("--dead", help="Variants whose own file was edited or is gone, and runs replaced with --force."),
    ] = False,
    suite: Annotated[list[str] | None, typer.Option(metavar="SUITE", help="Variants of this suite only.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    results: Results = RESULTS,
) -> int:
    """Remove all runs of variants. It lists them and asks first. Runs in training stay; then the exit status is 1."""
    from flowbench.common.errors import UsageError, printable
    from flowbench.store import manage

    if not (variant or dead):
        raise UsageError("nothing to remove: name variants (flowbench results ls lists them), or give --dead")
    chosen = [manage.find(results, name, suite or ()) for name in dict.fromkeys(variant or [])]
    found = {tuple(each.folders): str(each) for each in chosen}
    found |= {tuple(folders): text for text, folders in (manage.dead(results) if dead else [])}
    if not found:
        print("nothing is dead")
        return 0
    for text in found.values():
        print(printable(f"remove {text}"))
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("nothing was removed: the answer cannot be asked for here; give --yes")
        typer.confirm("Remove them?", abort=True)
    kept = manage.remove(results, [folder for folders in found for folder in folders])
    for folder in kept:
        print(printable(f"flowbench: not removed, another process trains it: {folder}"), file=sys.stderr)
    return int(bool(kept))


@results_app.command("merge", epilog="Example: flowbench results merge results/cpu --results results")
def merge_folders(
    source: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Results folders, such as of other machines.")],
    results: Results = RESULTS,
) -> int:
    """Copy the runs of other results folders into --results. Nothing there is overwritten.

    If both have different runs of one cell, or a task has other settings there, it is a conflict: conflicts are listed,
    the other runs are copied, and the exit status is 1. Queued and running cells are left out.
    """
    from flowbench.common.errors import printable
    from flowbench.common.text_table import plural
    from flowbench.store import manage

    merged = manage.merge(source, results)
    warn(merged.left_out)
    for text in merged.conflicts:
        print(printable(f"flowbench: conflict: {text}"), file=sys.stderr)
    print(
        f"{plural(len(merged.copied), 'run')} copied, {len(merged.there_already)} there already, "
        f"{plural(len(merged.conflicts), 'conflict')}"
    )
    return int(bool(merged.conflicts))
