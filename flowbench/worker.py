"""`python -m flowbench.worker FOLDER...`: trains one group of cells, a folder each, in one process.

All it needs is the folders' run.json files, so a cell can be run by hand again as it was run. What goes on is told as
JSON lines on standard output; everything else that is printed goes to the log.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from flowbench import lock, mirrors, rows, store

if TYPE_CHECKING:
    import torch

    from algos.agent import Agent
    from flowbench.places import Places
    from flowbench.trainer import Trainer

EXIT_FAILED, EXIT_STOPPED, EXIT_BUSY = 1, 130, 75


class Stopped(BaseException):
    """The run was asked to stop."""


class Group:
    """The cells of one worker and their run.json records, changed together."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = list(folders)
        self.runs = [store.read_run(folder) for folder in folders]

    @property
    def first(self) -> dict[str, Any]:
        return self.runs[0]

    def update(self, **values: Any) -> None:
        """Set keys in the record of every cell that has not failed, and write them."""
        for folder, run in zip(self.folders, self.runs, strict=True):
            if run["status"] != "failed":
                run.update(values)
                store.write_run(folder, run)

    def fail(self, seed: int, error: str) -> None:
        """One cell came to nothing; the others go on."""
        for folder, run in zip(self.folders, self.runs, strict=True):
            if run["seed"] == seed:
                run.update(status="failed", ended=store.now(), error=error)
                store.write_run(folder, run)

    @property
    def failed(self) -> bool:
        """Whether a cell has failed."""
        return any(run["status"] == "failed" for run in self.runs)


def main(arguments: Sequence[str]) -> int:
    """Train the cells in the given folders; the exit status says how it ended.

    `--locked` says that the caller holds the folders' locks and that this process has inherited them.
    """
    tell = _claim_stdout()
    folders = [Path(argument) for argument in arguments if argument != "--locked"]
    if not folders:
        print("usage: python -m flowbench.worker [--locked] FOLDER [FOLDER ...]", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        try:
            if "--locked" not in arguments:
                for folder in folders:
                    stack.enter_context(lock.hold(folder))
        except lock.Busy as error:
            print(error, file=sys.stderr)
            return EXIT_BUSY
        return _run(Group(folders), tell)


def _run(group: Group, tell: TextIO) -> int:
    started = time.perf_counter()
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
        for run in group.runs:
            run["status"] = "running"  # also where an earlier attempt failed
        group.update(status="running", started=store.now(), ended=None, error=None, pid=os.getpid())
        _train(group, tell)
        _ignore_signals()  # the work is done: what is left is to say so
    except Stopped:
        group.update(status="stopped", ended=store.now())
        return EXIT_STOPPED
    except (Exception, SystemExit) as error:
        _ignore_signals()
        traceback.print_exc()
        line = " ".join(f"{type(error).__name__}: {error}".split())
        group.update(status="failed", ended=store.now(), error=line)
        return EXIT_FAILED
    group.update(status="done", ended=store.now(), seconds=time.perf_counter() - started)
    return EXIT_FAILED if group.failed else 0


def _train(group: Group, tell: TextIO) -> None:
    _say(tell, event="stage", text="loading")
    import torch

    from flowbench import machine
    from flowbench.trainer import Lost, Row, Tick

    run = group.first
    device = torch.device(_device(run["device"], torch.cuda.is_available()))
    torch.set_num_threads(int(run["threads"]))
    _say(tell, event="stage", text="building")
    trainer, places = _trainer(group, device, tell)
    group.update(
        device=str(device),
        learner={
            "kind": trainer.kind,
            "replay": str(trainer.replay_device),
            "environment_processes": places.environments,
            "evaluation_processes": places.evaluation,
        },
        parameters=trainer.parameter_count,
        versions=machine.versions(),
        machine={
            "cpu": machine.cpu_model(),
            "cores": machine.cores(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        },
    )
    with closing(trainer), _tables(group, trainer.columns) as tables, _mirrors(group) as mirrored:
        for happened in trainer.run():
            if isinstance(happened, Row):
                tables[happened.table, happened.seed].append(happened.values)
                mirrored[happened.seed].append(happened.table, happened.values)
                if happened.table == "evals":
                    values = happened.values
                    _say(tell, event="evaluation", seed=happened.seed, step=values["step"], mean=values["mean"])
            elif isinstance(happened, Tick):
                _say(tell, event="tick", step=happened.step, speed=happened.steps_per_second)
            elif isinstance(happened, Lost):
                group.fail(happened.seed, f"FloatingPointError: {happened.error}")
    for record in group.runs:
        record["wall"] = {what: round(seconds, 3) for what, seconds in trainer.clock.split().items()}


def _trainer(group: Group, device: torch.device, tell: TextIO) -> tuple[Trainer, Places]:
    """The trainer of a group as its records want it, and where its work is done."""
    import torch

    import algos
    import suites
    from flowbench import overrides
    from flowbench.group import CannotStack
    from flowbench.trainer import Trainer

    run = group.first
    entry = algos.Entry(run["algo"]["name"], run["algo"]["target"])
    algorithm = entry.load()
    if entry.digest() != run["algo"]["sha256"]:
        raise RuntimeError(f"{entry.path} was changed between planning and training")
    task = suites.Task(
        name=run["task"]["name"],
        source=run["task"]["source"],
        action_repeat=run["task"]["action_repeat"],
        score=suites.Score(run["task"]["low"], run["task"]["high"]),
    )
    places = _places(len(group.runs), device, run)
    if places.precision == "tf32":
        torch.set_float32_matmul_precision("high")

    def build(places: Places) -> Trainer:
        return Trainer(
            partial(suites.make, task),
            algorithm,
            overrides.restore(algorithm.Config, run["config"]),
            [record["seed"] for record in group.runs],
            steps=run["protocol"]["steps"],
            evaluate_every=run["protocol"]["every"],
            evaluation_episodes=run["protocol"]["episodes"],
            places=places,
            build_agent=partial(_build_agent, run["algo"]["name"], run["algo"]["target"], run["config"]),
        )

    try:
        return build(places), places
    except CannotStack as error:
        text = (
            f"{run['algo']['name']}: its seeds are trained one after the other, because it cannot be stacked: {error}"
        )
        print(text, file=sys.stderr)
        _say(tell, event="note", text=text)
        places = replace(places, stack=False)
        return build(places), places


def _build_agent(name: str, target: str, config: dict[str, Any], obs_dim: int, act_dim: int) -> Agent[Any]:
    """An agent of the algorithm, in whatever process it is wanted."""
    import algos
    from flowbench import overrides

    algorithm = algos.Entry(name, target).load()
    return algorithm(obs_dim, act_dim, overrides.restore(algorithm.Config, config))


def _places(seeds: int, device: torch.device, run: Mapping[str, Any]) -> Places:
    """Where a group's work is done: on a GPU, the cores that the learner leaves over step and evaluate."""
    from flowbench.places import Places

    precision = run.get("precision", "float32")
    if device.type == "cpu":
        return Places(device, stack=seeds > 1, precision=precision)
    spare = max(0, int(run["threads"]) - 1)
    stepping = min(seeds, spare)
    return Places(device, seeds > 1, precision, stepping, min(seeds, spare - stepping))


@contextmanager
def _tables(group: Group, columns: Any) -> Iterator[Mapping[tuple[str, int], rows.RowWriter]]:
    """The CSV files of every cell, by table and seed."""
    writers = {
        (table, run["seed"]): rows.RowWriter(folder / f"{table}.csv", columns(table))
        for folder, run in zip(group.folders, group.runs, strict=True)
        for table in ("evals", "train")
    }
    try:
        yield writers
    finally:
        for writer in writers.values():
            writer.close()


@contextmanager
def _mirrors(group: Group) -> Iterator[Mapping[int, mirrors.Mirrors]]:
    """Where every cell's rows are copied to, by seed."""
    started = {
        run["seed"]: mirrors.Mirrors(run.get("log", []), folder, run)
        for folder, run in zip(group.folders, group.runs, strict=True)
    }
    try:
        yield started
    finally:
        for of_seed in started.values():
            of_seed.close()


def _device(asked: str, cuda: bool) -> str:
    if asked == "cuda" and not cuda:
        raise RuntimeError("no CUDA device here; run with --device cpu or auto")
    return "cuda" if asked == "cuda" or (asked == "auto" and cuda) else "cpu"


def _claim_stdout() -> TextIO:
    """Keep standard output for events alone: whatever a library or an algorithm prints goes to standard error."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events


def _say(tell: TextIO, **event: Any) -> None:
    try:
        tell.write(json.dumps(event) + "\n")
        tell.flush()
    except BrokenPipeError:  # nobody listens any more: the process that started this one is gone
        raise Stopped from None


def _stop(number: int, frame: FrameType | None) -> None:
    _ignore_signals()  # a second one must not cut off what the first one sets going
    raise Stopped


def _ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
