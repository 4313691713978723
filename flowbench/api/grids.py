"""`run`, `load`, `report` and `compare`: what the commands of these names do, without the command line."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console

from flowbench import report as reports
from flowbench.api.rehearsal import rehearse
from flowbench.common import duration
from flowbench.common.errors import UsageError, one_of
from flowbench.common.numbers import whole
from flowbench.grid import adaptive_seeds
from flowbench.grid.run import run_grid
from flowbench.plan.options import RunOptions
from flowbench.plan.request import Request, selected
from flowbench.report import Drawing, Report, comparison, page
from flowbench.report.comparison import Comparisons
from flowbench.report.figures import draw
from flowbench.schedule import executors
from flowbench.schedule.groups import parse_shard
from flowbench.store.load import Results, load_results

Names: TypeAlias = "str | Sequence[str]"
Folder: TypeAlias = "str | os.PathLike[str]"
Number: TypeAlias = "int | float | str"


def run(
    suite: str | None = None,
    algo: Names = (),
    *,
    env: str | None = None,
    task: Names = (),
    seeds: str | int | Sequence[int] | None = None,
    steps: Number | None = None,
    set: Names | Mapping[str, Any] = (),
    file: Folder | None = None,
    results: Folder = "results",
    device: str = "auto",
    gpus: str | None = None,
    per_gpu: Number | None = None,
    jobs: Number | None = None,
    threads: Number | None = None,
    stack: Number = "auto",
    precision: str = "auto",
    checkpoint_every: Number | None = None,
    keep_checkpoints: bool = False,
    keep_weights: bool = False,
    log: Names = (),
    engine: str = "local",
    address: str | None = None,
    dry_run: bool = False,
    calibrate: bool = False,
    force: bool = False,
    any_code: bool = False,
    fail_fast: bool = False,
    retries: Number = 0,
    timeout: Number | None = None,
    shard: str | None = None,
    quiet: bool = False,
) -> int:
    """Train a grid of tasks, algorithms and seeds, as `flowbench run` does; its help describes the arguments.

    Returns the exit status of the command: 0, 1 (a cell failed) or 130 (interrupted). Raises a ValueError for a
    mistake, with the message of the command line.
    """
    request = Request.merge(
        Path(file) if file is not None else None,
        suite=suite,
        env=env,
        algo=_items(algo),
        task=_items(task),
        seeds=seeds,
        steps=whole("--steps", steps),
        set=_items(set),
    )
    options = RunOptions(
        device="cuda" if device == "gpu" else device,
        gpus=gpus,
        per_gpu="auto" if per_gpu == "auto" else whole("--per-gpu", per_gpu),
        jobs=whole("--jobs", jobs, most=10_000),
        threads=whole("--threads", threads, most=1024),
        stack=None if stack == "auto" else whole("--stack", stack),
        precision=precision,
        checkpoint_every=whole("--checkpoint-every", checkpoint_every),
        keep_checkpoints=keep_checkpoints,
        keep_weights=keep_weights,
        log=tuple(name.strip() for text in _items(log) for name in text.split(",") if text),
        dry_run=dry_run,
        calibrate=calibrate,
        force=force,
        any_code=any_code,
        fail_fast=fail_fast,
        retries=whole("--retries", retries, least=0) or 0,
        timeout=duration.parse("--timeout", str(timeout)) if timeout is not None else None,
        shard=parse_shard(shard) if shard is not None else None,
        auto=request.auto,
        quiet=quiet,
    )
    train = adaptive_seeds.run if request.auto else run_grid
    cells = request.cells()
    with executors.cluster(engine, address) as cluster:
        status = train(cells, Path(results), options, cluster)
    if dry_run:
        Console().print(rehearse(cells), highlight=False)
    return status


def load(results: Folder = "results", *, suite: Names = (), algo: Names = ()) -> Results:
    """The runs below a results folder, or those of the named suites and algorithms.

    `.runs` has one row for each run, `.evals` one for each evaluation of a run, with `mean` (the mean return) and
    `score`. A run that cannot be read is left out with a warning, and listed in `.problems`.
    """
    found = load_results(Path(results), *selected(_items(suite), _items(algo)))
    for problem in found.problems:
        warnings.warn(f"left out: {problem}", stacklevel=2)
    return found


def report(
    results: Folder = "results",
    *,
    suite: Names = (),
    algo: Names = (),
    sort: str | None = None,
    label: Names | Mapping[str, str] = (),
    baseline: str | None = None,
    step: Number | None = None,
    format: str | None = None,
    reps: Number = 10_000,
    seed: int = 0,
    strict: bool = False,
    pairs: bool = False,
    figures: Folder | None = None,
    figure: Names | Mapping[str, Folder] = (),
    figure_size: str | None = None,
    html: Folder | None = None,
    thin: bool = False,
) -> Report | str:
    """The report on a results folder, with the arguments of `flowbench report`.

    Returns its DataFrames, a section for each suite: `.sections[0].aggregates`, `.per_task`, `.improvement` and more. A
    notebook shows it as tables. With a `format` (table, markdown, latex, csv or json) returns the text instead.
    `figures`, `figure` and `html` also write files. `label` and `figure` may be mappings, such as {"sac": "SAC"}.
    """
    if format is not None:
        one_of("format", format, ("table", *reports.FORMATS))
    drawing = Drawing.of(Path(figures) if figures is not None else None, _items(figure), figure_size, thin=thin)
    at, resamples = whole("--step", step), whole("--reps", reps) or 0
    found = load(results, suite=suite, algo=algo)
    built = reports.build(
        found.runs,
        found.evals,
        step=at,
        reps=resamples,
        seed=seed,
        pairs_per_task=pairs,
        strict=strict,
        labels=_items(label),
        sort=sort,
        given=selected((), _items(algo))[1],
        baseline=baseline,
    )
    if drawing.wanted:
        draw(built, found.runs, found.evals, drawing)
    if html is not None:
        Path(html).write_text(page.render(built, found.runs, found.evals), encoding="utf-8")
    if format is None:
        return built
    if format == "table":
        return _printed(reports.show, built)
    return reports.render(built, format)


def compare(
    algo: str,
    over: str,
    *,
    suite: Names = (),
    step: Number | None = None,
    format: str | None = None,
    reps: Number = 10_000,
    seed: int = 0,
    strict: bool = False,
    label: Names | Mapping[str, str] = (),
    results: Folder = "results",
) -> Comparisons | str:
    """Whether `algo` is better than `over`, and on which tasks, with the arguments of `flowbench compare`.

    Returns its DataFrames, one comparison for each suite: `.of_suites[0].overall` and `.per_task`. A notebook shows it
    as tables. With a `format` (table, markdown or json) returns the text instead.
    """
    if format is not None:
        one_of("format", format, ("table", *comparison.FORMATS))
    at, resamples = whole("--step", step), whole("--reps", reps) or 0
    found = load(results, suite=suite)
    made = comparison.compare(
        found.runs, found.evals, algo, over, step=at, reps=resamples, seed=seed, strict=strict, labels=_items(label)
    )
    if format is None:
        return made
    if format == "table":
        return _printed(comparison.show, made)
    return comparison.FORMATS[format](made)


def _items(value: Names | Mapping[str, Any]) -> list[str]:
    """The texts in an argument that may be one text, several, or a mapping from keys to values."""
    if isinstance(value, str):
        return [value] if value else []
    if isinstance(value, Mapping):
        return [f"{key}={each}" for key, each in value.items()]
    if not isinstance(value, Iterable):
        raise UsageError(f"{value!r} is not a text or a list of texts")
    return [str(each) for each in value]


def _printed(show: Callable[[Any, Console], None], value: Report | Comparisons) -> str:
    """What a function prints to a terminal of 100 columns."""
    paper = io.StringIO()
    show(value, Console(file=paper, width=100))
    return paper.getvalue()
