"""Trains the cells of one worker: builds a trainer from their records and writes what it yields to their folders."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

import algos
import suites
from flowbench.common import system
from flowbench.learners import placement
from flowbench.learners.placement import Placement
from flowbench.plan import overrides
from flowbench.store import csv_rows, loggers, weights
from flowbench.store.csv_rows import TABLES
from flowbench.store.records import LearnerInfo, MachineInfo, Sizes
from flowbench.train.build import build_agent, build_trainer
from flowbench.train.events import Row, Save, SeedFailed, Tick
from flowbench.train.trainer import Trainer
from flowbench.worker import self_check
from flowbench.worker.resume import Checkpoints
from flowbench.worker.session import Session, Stopped


class Report(Protocol):
    """Reports an event to the process that started the worker. Raises Stopped if that process has ended."""

    def __call__(self, **event: object) -> None: ...


def train(session: Session, report: Report, started: float) -> None:
    """Train the cells to their end or until they are stopped; `started` is the time.perf_counter() of the worker.

    Raises Stopped, lease.Lost, and whatever environments and algorithms raise.
    """
    run = session.first
    device = placement.device(run.device or "auto")
    torch.set_num_threads(run.threads or 1)
    report(event="stage", text="building")
    task = run.task.task()
    success = suites.success(task)
    trainer, spread, note = _trainer(session, task, success, device, report)
    loading = trainer.clock.started - started
    session.update(
        startup=time.perf_counter() - started,
        success_from=success,
        device=str(device),
        note=note or None,
        learner=LearnerInfo(trainer.kind, str(trainer.replay_device), spread.environments, spread.evaluation),
        parameters=trainer.parameter_count,
        sizes=Sizes(*trainer.sizes),
        versions=system.versions(suites.packages(task.source)),
        machine=MachineInfo(
            cpu=system.cpu_model(),
            cores=system.cores(),
            threads=torch.get_num_threads(),
            gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        ),
    )
    with closing(trainer):
        checkpoints = Checkpoints(session, trainer, partial(_note, session, report))
        session.trainer = trainer
        session.child_processes = spread.environments + spread.evaluation
        session.check_leases()
        with (
            checkpoints,
            _tables(session, trainer.columns, checkpoints.sizes) as tables,
            _loggers(session, trainer.step) as copies,
        ):
            for event in trainer.run():
                checkpoints.check()
                if isinstance(event, Row):
                    session.check_leases()
                    tables[event.table, event.seed].append(event.values)
                    copies[event.seed].append(event.table, event.values)
                elif isinstance(event, SeedFailed):
                    session.fail(event.seed, event.error)
                elif isinstance(event, Save):
                    session.check_leases()
                    checkpoints.save(event.step)
                try:
                    _report(report, event)
                except Stopped:
                    trainer.stop()
    if not trainer.finished:
        raise Stopped
    _keep_weights(session, trainer)
    for record in session.runs:
        record.wall = {part: round(seconds, 3) for part, seconds in trainer.clock.split().items()}
        record.seconds = loading + trainer.clock.total


def _report(report: Report, event: Row | Tick | SeedFailed | Save) -> None:
    """Report the events that a progress display shows. Raises Stopped."""
    if isinstance(event, Tick):
        report(event="tick", step=event.step, speed=event.steps_per_second)
    elif isinstance(event, Row) and event.table == "evals":
        report(event="evaluation", seed=event.seed, step=event.values["step"], mean=event.values["mean"])


def _trainer(
    session: Session, task: suites.Task, success: float | None, device: torch.device, report: Report
) -> tuple[Trainer, Placement, str]:
    """The trainer that the records describe, its placement, and what the user should know about them."""
    run = session.first
    entry = algos.Entry(run.algo.name, run.algo.target)
    algorithm = entry.load()
    if entry.digest() != run.algo.sha256 or run.algo.code not in (None, entry.code()):
        where = entry.path or f"the code of {entry.target}"
        raise RuntimeError(f"{where} was changed between planning and training")
    spread = placement.spread(
        len(session.runs),
        device,
        threads=run.threads or 1,
        precision=run.precision or "float32",
        per_gpu=run.per_gpu or 1,
    )
    spread.apply()
    config = overrides.restore(algorithm.Config, run.config)
    seeds = [record.seed for record in session.runs]

    def build(spread: Placement) -> Trainer:
        return build_trainer(
            partial(suites.make, task),
            algorithm,
            config,
            seeds,
            steps=run.protocol.steps,
            evaluate_every=run.protocol.every,
            evaluation_episodes=run.protocol.episodes,
            placement=spread,
            build_agent=partial(build_agent, run.algo.name, run.algo.target, run.config),
            save_every=run.checkpoint_every,
            success=success,
        )

    trainer = build(spread)
    notes = [trainer.note] if trainer.note else []
    if differs := self_check.difference(algorithm, *trainer.sizes, config, seeds, spread):
        trainer.close()
        spread = replace(spread, graphs=False)
        trainer = build(spread)
        notes.append(f"CUDA graphs are not used, because their replay computed other {differs} than eager mode")
    for text in notes:
        _note(session, report, text)
    return trainer, spread, "; ".join(notes)


def _keep_weights(session: Session, trainer: Trainer) -> None:
    """Write the weights of every finished cell, if they are to be kept. Raises lease.Lost."""
    session.check_leases()
    for index, (folder, run) in enumerate(zip(session.folders, session.runs, strict=True)):
        if run.status != "failed" and run.keep_weights:
            weights.write(folder, run, trainer.step, *trainer.sizes, trainer.weights(index))


def _note(session: Session, report: Report, text: str) -> None:
    """Something the user should know: print it to the log and report it."""
    run = session.first
    text = f"{run.algo.label} {run.task.name}: {text}"
    print(text, file=sys.stderr)
    report(event="note", text=text)


@contextmanager
def _tables(
    session: Session, columns: Callable[[str], Sequence[str]], sizes: Sequence[Mapping[str, int]]
) -> Iterator[Mapping[tuple[str, int], csv_rows.RowWriter]]:
    """Writers of every cell's CSV files, by table and seed; on resume a file is cut to its size in the checkpoint."""
    writers = {
        (Path(table).stem, run.seed): csv_rows.RowWriter(folder / table, columns(Path(table).stem), size.get(table))
        for folder, run, size in zip(session.folders, session.runs, sizes, strict=True)
        for table in TABLES
    }
    try:
        yield writers
    finally:
        for writer in writers.values():
            writer.close()


@contextmanager
def _loggers(session: Session, step: int) -> Iterator[Mapping[int, loggers.Loggers]]:
    """The loggers of every cell, by seed, from a step on."""
    started = {
        run.seed: loggers.Loggers(run.log or [], folder, run, step)
        for folder, run in zip(session.folders, session.runs, strict=True)
    }
    try:
        yield started
    finally:
        for each in started.values():
            each.close()
