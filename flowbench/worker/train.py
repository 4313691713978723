"""Training the cells of one worker: a trainer as their records want it; what it yields, in their folders."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

import algos
import suites
from flowbench.common import system
from flowbench.plan import overrides
from flowbench.store import checkpoint, csv_rows, loggers, records, weights
from flowbench.store.csv_rows import TABLES
from flowbench.train import placement
from flowbench.train.build import build_agent, build_trainer
from flowbench.train.events import Row, Save, SeedFailed, Tick
from flowbench.train.placement import Placement
from flowbench.train.trainer import Trainer
from flowbench.worker.session import Cells, Stopped


class Say(Protocol):
    """Tells what goes on. Raises Stopped when nobody listens any more."""

    def __call__(self, **event: Any) -> None: ...


def train(cells: Cells, say: Say, started: float) -> None:
    """Train cells, which began to load at `started` of time.perf_counter, to their end or to where they are stopped.

    Raises Stopped, lease.Lost, and whatever environments and algorithms raise.
    """
    run = cells.first
    device = placement.device(run["device"])
    torch.set_num_threads(int(run["threads"]))
    say(event="stage", text="building")
    task = records.task(run)
    success = suites.success(task)
    trainer, spread = _trainer(cells, task, success, device, say)
    loading = trainer.clock.started - started
    cells.update(
        startup=time.perf_counter() - started,
        success_from=success,
        device=str(device),
        learner={
            "kind": trainer.kind,
            "replay": str(trainer.replay_device),
            "environment_processes": spread.environments,
            "evaluation_processes": spread.evaluation,
        },
        parameters=trainer.parameter_count,
        sizes=dict(zip(("obs", "act"), trainer.sizes, strict=True)),
        versions=system.versions(suites.packages(task.source)),
        machine={
            "cpu": system.cpu_model(),
            "cores": system.cores(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        },
    )
    with closing(trainer):
        checkpoints = Checkpoints(cells, trainer, partial(_note, cells, say))
        cells.trainer = trainer
        cells.children = spread.environments + spread.evaluation
        cells.check()
        with _tables(cells, trainer.columns, checkpoints.sizes) as tables, _mirrors(cells, trainer.step) as mirrored:
            for happened in trainer.run():
                if isinstance(happened, Row):
                    cells.check()
                    tables[happened.table, happened.seed].append(happened.values)
                    mirrored[happened.seed].append(happened.table, happened.values)
                elif isinstance(happened, SeedFailed):
                    cells.fail(happened.seed, happened.error)
                elif isinstance(happened, Save):
                    cells.check()
                    checkpoints.save(happened.step)
                try:
                    _tell(say, happened)
                except Stopped:
                    trainer.stop()
    if not trainer.finished:
        raise Stopped
    _keep_weights(cells, trainer)
    for record in cells.runs:
        record["wall"] = {what: round(seconds, 3) for what, seconds in trainer.clock.split().items()}
        record["seconds"] = loading + trainer.clock.total


def _tell(say: Say, happened: Row | Tick | SeedFailed | Save) -> None:
    """What is to be seen of training while it goes on. Raises Stopped."""
    if isinstance(happened, Tick):
        say(event="tick", step=happened.step, speed=happened.steps_per_second)
    elif isinstance(happened, Row) and happened.table == "evals":
        say(event="evaluation", seed=happened.seed, step=happened.values["step"], mean=happened.values["mean"])


def _trainer(
    cells: Cells, task: suites.Task, success: float | None, device: torch.device, say: Say
) -> tuple[Trainer, Placement]:
    """The trainer that the records of the cells describe, and its placement."""
    run = cells.first
    entry = algos.Entry(run["algo"]["name"], run["algo"]["target"])
    algorithm = entry.load()
    if entry.digest() != run["algo"]["sha256"]:
        raise RuntimeError(f"{entry.path} was changed between planning and training")
    spread = placement.spread(
        len(cells.runs),
        device,
        threads=int(run["threads"]),
        precision=run.get("precision", "float32"),
        per_gpu=run.get("per_gpu", 1),
    )
    spread.apply()
    trainer = build_trainer(
        partial(suites.make, task),
        algorithm,
        overrides.restore(algorithm.Config, run["config"]),
        [record["seed"] for record in cells.runs],
        steps=run["protocol"]["steps"],
        evaluate_every=run["protocol"]["every"],
        evaluation_episodes=run["protocol"]["episodes"],
        placement=spread,
        build_agent=partial(build_agent, run["algo"]["name"], run["algo"]["target"], run["config"]),
        save_every=run.get("checkpoint_every"),
        success=success,
    )
    if trainer.note:
        _note(cells, say, trainer.note)
    return trainer, spread


class Checkpoints:
    """The checkpoints of the cells: a trainer takes up the newest, and new ones are written."""

    def __init__(self, cells: Cells, trainer: Trainer, note: Callable[[str], None]) -> None:
        """`note` hears what a user should know of going on. Raises RuntimeError when the trainer cannot."""
        self.sizes: list[Mapping[str, int]] = [{} for _ in cells.folders]  # of the tables, where a run is gone on with
        self._cells, self._trainer = cells, trainer
        self._writers = [checkpoint.Writer(folder) for folder in cells.folders]
        found = checkpoint.newest(cells.folders)
        if not found:
            self._begin()
            return
        step = found[0].step
        try:
            notes = trainer.restore([each.state for each in found], [each.transitions for each in found])
        except Exception as error:
            start_over = "flowbench run --force starts over"
            raise RuntimeError(f"cannot go on from the checkpoint of step {step}: {error}; {start_over}") from error
        cells.check()
        self.sizes = [each.tables for each in found]
        self._writers = [checkpoint.Writer.going_on(folder, step) for folder in cells.folders]
        print(f"goes on from step {step}", file=sys.stderr)
        for run in cells.runs:
            stretches = [run.get("began", {}), *run.get("resumed", [])]
            notes += _changes(stretches[-1], _stretch(run))
            run["resumed"] = [*stretches[1:], {"at": records.now(), "step": step, **_stretch(run)}]
        cells.update()
        for text in dict.fromkeys(notes):
            note(text)

    def _begin(self) -> None:
        """Begin anew: what an earlier attempt left without a whole checkpoint goes."""
        for folder, run in zip(self._cells.folders, self._cells.runs, strict=True):
            checkpoint.remove(folder)
            shutil.rmtree(folder / loggers.TENSORBOARD, ignore_errors=True)
            run.pop("resumed", None)
            run["began"] = _stretch(run)
        self._cells.update()

    def save(self, step: int) -> None:
        """Write a checkpoint of every cell, also of those that came to nothing: the others go on beside them."""
        trainer = self._trainer
        for slot, writer in enumerate(self._writers):
            writer.write(step, TABLES, trainer.state(slot), partial(trainer.transitions, slot), trainer.held)


def _stretch(run: Mapping[str, Any]) -> dict[str, Any]:
    """What the numbers of a stretch of training depend on beside its config."""
    return {key: run.get(key) for key in ("device", "precision", "threads", "versions")}


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was in the stretch before, so that the numbers are not those of a run that never stopped."""
    return [
        f"goes on with {key} {now[key]}, after {before[key]}: not exactly as if it had not stopped"
        for key in now
        if key in before and before[key] != now[key]
    ]


def _keep_weights(cells: Cells, trainer: Trainer) -> None:
    """Write the weights of every cell that has come to its end, where they are asked for. Raises lease.Lost."""
    cells.check()
    for slot, (folder, run) in enumerate(zip(cells.folders, cells.runs, strict=True)):
        if run["status"] != "failed" and run.get("keep_weights"):
            weights.write(folder, run, trainer.step, *trainer.sizes, trainer.weights(slot))


def _note(cells: Cells, say: Say, text: str) -> None:
    """Something a user should know, in the log and where the grid is watched."""
    run = cells.first
    text = f"{run['algo'].get('label', run['algo']['name'])} {run['task']['name']}: {text}"
    print(text, file=sys.stderr)
    say(event="note", text=text)


@contextmanager
def _tables(
    cells: Cells, columns: Callable[[str], Sequence[str]], sizes: Sequence[Mapping[str, int]]
) -> Iterator[Mapping[tuple[str, int], csv_rows.RowWriter]]:
    """The CSV files of every cell, by table and seed, begun anew or gone on with after so many bytes."""
    writers = {
        (Path(table).stem, run["seed"]): csv_rows.RowWriter(folder / table, columns(Path(table).stem), size.get(table))
        for folder, run, size in zip(cells.folders, cells.runs, sizes, strict=True)
        for table in TABLES
    }
    try:
        yield writers
    finally:
        for writer in writers.values():
            writer.close()


@contextmanager
def _mirrors(cells: Cells, step: int) -> Iterator[Mapping[int, loggers.Mirrors]]:
    """Where every cell's rows are copied to, by seed, from a step on."""
    started = {
        run["seed"]: loggers.Mirrors(run.get("log", []), folder, run, step)
        for folder, run in zip(cells.folders, cells.runs, strict=True)
    }
    try:
        yield started
    finally:
        for of_seed in started.values():
            of_seed.close()
