"""The command line: parse, call, print. Heavy libraries are imported by the commands that need them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from flowbench import __version__

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

Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="The results folder.")]
RESULTS = Path("results")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and leave with its exit status: 0, 1 (a cell failed), 2 (usage), 130 (interrupted)."""
    sys.exit(_status(arguments))


def _status(arguments: list[str] | None) -> int:
    try:
        return app(arguments, standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted", 130)
    except BrokenPipeError:  # `flowbench report | head`
        sys.stderr.close()
        return 0
    except _mistakes() as error:
        return _complain(str(error), 2)
    except Exception as error:
        # Typer's own usage errors have no base class that all its versions share, but all carry this method.
        if not hasattr(error, "format_message"):
            raise
        message = error.format_message() or "choose a command"
        return _complain(f"{message} (flowbench --help tells more)", 2)


def _mistakes() -> tuple[type[ValueError], ...]:
    """The errors that are a user's mistake; any other is a fault of ours and keeps its traceback."""
    from algos import AlgorithmError
    from flowbench.errors import UsageError
    from suites import SuiteError

    return UsageError, SuiteError, AlgorithmError


def _complain(message: str, status: int) -> int:
    print("flowbench: " + " ".join(message.split()), file=sys.stderr)
    return status


def _version(asked: bool) -> None:
    if asked:
        print(f"flowbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: flowbench run --suite quick --algo 'flowrl,flowrl\\[constraint=false],sac' --seeds 5")
def run(
    suite: Annotated[str | None, typer.Option(metavar="SUITE", help="A suite's name, or path/to/suite.yaml.")] = None,
    algo: Annotated[
        list[str] | None,
        typer.Option(metavar="ALGO[,ALGO]", help="Algorithms: name, name\\[key=value,...] or path/to/file.py:Class."),
    ] = None,
    task: Annotated[list[str] | None, typer.Option(metavar="TASK", help="Only this task; may be repeated.")] = None,
    seeds: Annotated[str | None, typer.Option(metavar="SEEDS", help="5 (the first five), 0,3,7 or 0-9.")] = None,
    steps: Annotated[str | None, typer.Option(metavar="N", help="Environment steps, instead of the suite's.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="lr=1e-4 for all that have it, flowrl.lr=1e-4 for one."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="YAML", help="A grid: the options above as keys.")
    ] = None,
    results: Results = RESULTS,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to train.")] = "auto",
    jobs: Annotated[
        str | None, typer.Option(metavar="N", help="Cells at once; one a GPU, or one a core, if left out.")
    ] = None,
    stack: Annotated[
        str, typer.Option(metavar="auto|K", help="Seeds trained as one batched computation; auto: on a GPU, all.")
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(metavar="auto|float32|tf32|bfloat16", help="Of matrix products; auto: tf32 on a GPU."),
    ] = "auto",
    checkpoint_every: Annotated[
        str | None, typer.Option(metavar="N", help="Steps between checkpoints; with each evaluation, if left out.")
    ] = None,
    keep_checkpoints: Annotated[
        bool, typer.Option("--keep-checkpoints", help="Keep those of finished runs, which are removed otherwise.")
    ] = False,
    log: Annotated[str, typer.Option(metavar="tensorboard,wandb", help="Copy rows there too (extra: log).")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the cells and what is done already; run none.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Run everything from its start, also what is done; finished runs are set aside."),
    ] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Start nothing more once a cell has failed.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but failures.")] = False,
) -> int:
    """Train a grid of tasks, algorithms and seeds; what is finished is not run again, what was interrupted goes on."""
    from flowbench import grid

    request = grid.Request.merge(
        file,
        suite=suite,
        algo=algo or [],
        task=task or [],
        seeds=seeds,
        steps=_count("--steps", steps),
        set=settings or [],
    )
    at_once = _count("--jobs", jobs)
    return grid.run(
        request,
        results,
        device=device,
        jobs=at_once,
        stack=None if stack == "auto" else _count("--stack", stack),
        precision=precision,
        checkpoint_every=_count("--checkpoint-every", checkpoint_every),
        keep_checkpoints=keep_checkpoints,
        log=log,
        dry_run=dry_run,
        force=force,
        fail_fast=fail_fast,
        quiet=quiet,
    )


@app.command(epilog="Example: flowbench status --suite quick")
def status(
    suite: Annotated[list[str] | None, typer.Option(metavar="SUITE", help="Only this suite; may be repeated.")] = None,
    algo: Annotated[
        list[str] | None, typer.Option(metavar="ALGO", help="Only this algorithm; may be repeated.")
    ] = None,
    results: Results = RESULTS,
) -> None:
    """Show how far a grid is: seeds done, running, failed and missing, by task and algorithm."""
    from flowbench import store
    from flowbench.report import coverage

    found = store.load(results, *_named(suite, algo))
    _warn(found.problems)
    coverage.show(found.runs, Console())


@app.command(epilog="Example: flowbench report --suite quick --format markdown > table.md")
def report(
    suite: Annotated[list[str] | None, typer.Option(metavar="SUITE", help="Only this suite; may be repeated.")] = None,
    algo: Annotated[
        list[str] | None, typer.Option(metavar="ALGO", help="Only this algorithm; may be repeated.")
    ] = None,
    step: Annotated[
        str | None, typer.Option(metavar="N", help="Compare at this step; the common one if left out.")
    ] = None,
    format: Annotated[str, typer.Option("--format", metavar="table|markdown|csv|json", help="How to print.")] = "table",
    reps: Annotated[str, typer.Option(metavar="N", help="Bootstrap resamples.")] = "10000",
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Print the probability of improvement on each task, too.")
    ] = False,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw the learning curves too, as SVG and PNG, into this folder.")
    ] = None,
    results: Results = RESULTS,
) -> None:
    """Print scores over tasks and seeds with 95 % stratified-bootstrap intervals, and each task's returns."""
    from flowbench.errors import UsageError, unknown

    formats = ("table", "markdown", "csv", "json")
    if format not in formats:
        raise unknown("format", format, formats)
    at, resamples = _count("--step", step), _count("--reps", reps) or 0
    from flowbench import report as reports
    from flowbench import store

    found = store.load(results, *_named(suite, algo))
    _warn(found.problems)
    built = reports.build(found.runs, found.evals, step=at, reps=resamples, pairs_per_task=pairs)
    if format == "table":
        reports.show(built, Console())
    else:
        sys.stdout.write(reports.render(built, format).rstrip("\n") + "\n")
    if figures:
        from flowbench import stats
        from flowbench.report.figures import save

        _, evals = stats.distinct_labels(found.runs, found.evals)
        try:
            drawn = save(evals, figures)
        except OSError as error:
            raise UsageError(f"--figures {str(figures)!r}: {error.strerror}") from error
        for path in drawn:
            print(f"drew {path}", file=sys.stderr)


@app.command(epilog="Example: flowbench bench --algo sac,td3 --stack 1,5")
def bench(
    algo: Annotated[
        list[str] | None,
        typer.Option(metavar="ALGO[,ALGO]", help="Algorithms as `run` takes them; all known ones if left out."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="hidden=512, flowrl.hidden=512.")
    ] = None,
    stack: Annotated[
        str | None, typer.Option(metavar="K[,K]", help="Seeds trained together; 1,5, or with --loop 1, if left out.")
    ] = None,
    obs: Annotated[str | None, typer.Option(metavar="N", help="Observation dimensions; 223 if left out.")] = None,
    act: Annotated[str | None, typer.Option(metavar="N", help="Action dimensions; 38 if left out.")] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="N", help="Transitions an update; the algorithm's own if left out.")
    ] = None,
    seconds: Annotated[str | None, typer.Option(metavar="S", help="Timing of each update; 3 if left out.")] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Stable-Baselines3's SAC and TD3 beside ours (extra: peers).")
    ] = False,
    loop: Annotated[
        str | None, typer.Option(metavar="TASK", help="Time whole training runs on this task instead of updates.")
    ] = None,
    steps: Annotated[str | None, typer.Option(metavar="N", help="Of such a run; 3000 if left out.")] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.")] = "auto",
    precision: Annotated[
        str,
        typer.Option(metavar="auto|float32|tf32|bfloat16", help="Of matrix products; auto: tf32 on a GPU."),
    ] = "auto",
    threads: Annotated[str | None, typer.Option(metavar="N", help="Of torch; all cores if left out.")] = None,
    format: Annotated[str, typer.Option("--format", metavar="table|markdown|json", help="How to print.")] = "table",
) -> None:
    """Time an update and an action of each algorithm, next to the hardware's limit; or see where a run's time goes."""
    given = {"obs": obs, "act": act, "batch": batch, "steps": steps, "threads": threads}
    counts = {name: _count(f"--{name}", text) for name, text in given.items()}
    from flowbench import bench as benchmarks

    benchmarks.run(
        algo=algo or [],
        settings=settings or [],
        stack=stack,
        seconds=seconds,
        with_peers=peers,
        task=loop,
        device=device,
        precision=precision,
        format=format,
        **counts,
    )


@list_app.command("suites", epilog="Example: flowbench list suites")
def list_suites() -> None:
    """List the suites."""
    import suites

    rows = []
    for name in suites.names():
        suite = suites.load(name, check_tasks=False)
        rows.append([name, str(len(suite.tasks)), f"{suite.steps:,}", suite.title])
    _table(["suite", "tasks", "steps", "what it is"], rows)


@list_app.command("tasks", epilog="Example: flowbench list tasks dmc-hard")
def list_tasks(suite: Annotated[str, typer.Argument(metavar="SUITE", help="A suite's name or file.")]) -> None:
    """List a suite's tasks with their source and the returns that count as score 0 and 1."""
    import suites

    tasks = suites.load(suite).tasks
    rows = [[task.name, task.source, f"{task.score.low:g}", f"{task.score.high:g}"] for task in tasks]
    _table(["task", "source", "score 0 at", "score 1 at"], rows)


@list_app.command("algos", epilog="Example: flowbench list algos")
def list_algos() -> None:
    """List the algorithms with their papers."""
    import algos

    rows = []
    for name in algos.names():
        try:
            rows.append([name, *algos.find(name).about()])
        except algos.AlgorithmError as error:  # one that is broken hides none of the others
            rows.append([name, f"({error})", ""])
    _table(["algorithm", "what it is", "paper"], rows)


@list_app.command("params", epilog="Example: flowbench list params flowrl")
def list_params(
    algo: Annotated[str, typer.Argument(metavar="ALGO", help="An algorithm's name, or path/to/file.py:Class.")],
) -> None:
    """List an algorithm's hyperparameters with their defaults; --set changes them."""
    import algos
    from flowbench import overrides

    rows = [
        [field.name, field.kind, field.default, field.comment] for field in overrides.describe(algos.find(algo).load())
    ]
    _table(["hyperparameter", "type", "default", "what it is"], rows)


def _count(option: str, text: str | None) -> int | None:
    """A whole number above zero, also written 1e6 or 1_000_000; None stays None."""
    from flowbench.errors import UsageError

    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not (1 <= number <= 2**53 and number.is_integer()):
        raise UsageError(f"{option} {text!r} is no whole number of at least 1")
    return int(number)


def _named(suite: list[str] | None, algo: list[str] | None) -> tuple[list[str], list[str]]:
    """The names behind --suite and --algo as `run` takes them: a suite's file, several algorithms in one text."""
    from flowbench.overrides import split_outside_brackets

    suites = [Path(name).stem if name.endswith((".yaml", ".yml")) else name for name in suite or []]
    return suites, [name for text in algo or [] for name in split_outside_brackets(text)]


def _table(columns: list[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)


def _warn(problems: list[Any]) -> None:
    for problem in problems:
        print(f"flowbench: left out: {problem}", file=sys.stderr)


if __name__ == "__main__":
    main()
