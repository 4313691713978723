"""`python -m flowbench.worker FOLDER...`: trains one group of cells, a folder each, in one process.

All it needs is the folders' run.json files, so a cell can be run by hand again as it was run. What goes on is told as
JSON lines on standard output; everything else that is printed goes to the log.
"""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

import suites
from flowbench import checkpoint, duration, faults, lease, lock, memory, mirrors, rows, store, weights
from flowbench.errors import line
from flowbench.rows import TABLES

if TYPE_CHECKING:
    import torch

    from algos.agent import Agent
    from flowbench.places import Places
    from flowbench.trainer import Trainer

EXIT_FAILED, EXIT_TRANSIENT, EXIT_BUSY, EXIT_STOPPED = 1, 74, 75, 130
GRACE_SECONDS = 20.0  # from when the time is up to the end of a worker that saves nothing, because it hangs


class Stopped(BaseException):
    """The run was asked to stop."""


class Group:
    """The cells of one worker and their run.json records, changed together."""

    def __init__(self, folders: Sequence[Path], leases: Sequence[lease.Lease] = ()) -> None:
        """Without `leases` nothing is held against other hosts."""
        self.folders = list(folders)
        self.runs = [store.read_run(folder) for folder in folders]
        self.trainer: Trainer | None = None  # once it is under way
        self.children = 0  # processes that step and evaluate
        self.timed_out = False
        self._leases = list(leases)

    @property
    def first(self) -> dict[str, Any]:
        return self.runs[0]

    def check(self) -> None:
        """To be called before anything is written into the folders. Raises lease.Lost when another host has one."""
        for each in self._leases:
            each.check()

    def update(self, **values: Any) -> None:
        """Set keys in the record of every cell that has not failed, and write them. Raises lease.Lost."""
        self.check()
        for folder, run in zip(self.folders, self.runs, strict=True):
            if run["status"] != "failed":
                run.update(values)
                store.write_run(folder, run)

    def end(self, status: str, error: str | None = None) -> None:
        """Write how it ended, when, and what memory it took at most."""
        self.update(status=status, ended=store.now(), error=error, memory=memory.peak(self.children))

    def fail(self, seed: int, error: Exception) -> None:
        """One cell came to nothing; the others go on. Raises lease.Lost."""
        self.check()
        for folder, run in zip(self.folders, self.runs, strict=True):
            if run["seed"] == seed:
                run.update(status="failed", ended=store.now(), error=_said(error))
                store.write_run(folder, run)

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Handles signals: training ends at its next step with a checkpoint; before it has begun, at once."""
        _ignore_signals()  # a second one must not cut off what the first one sets going
        if self.trainer is None:
            raise Stopped
        self.trainer.stop()

    def time_out(self, number: int, frame: FrameType | None) -> None:
        """Handles the alarm: the time of `--timeout` is up."""
        self.timed_out = True
        self.stop()

    def drop_checkpoints(self) -> None:
        """Remove the checkpoints of what is done, unless they are to be kept, and those that lead nowhere."""
        for folder, run in zip(self.folders, self.runs, strict=True):
            # A cell that failed while the others went on is given up in its checkpoints, too. It begins anew, alone.
            begins_anew = run["status"] == "failed" and not str(run["error"]).startswith(FloatingPointError.__name__)
            if begins_anew or (run["status"] == "done" and not run.get("keep_checkpoints")):
                checkpoint.remove(folder)

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
            if "--locked" in arguments:
                leases = [lease.adopt(folder) for folder in folders]
            else:
                abandoned = lease.abandoned(folders)
                leases = [stack.enter_context(lock.hold(folder, abandoned)).lease for folder in folders]
            with lease.beating(leases, _end):
                status = _run(Group(folders, leases), tell)
        except (lock.Busy, lease.Lost) as error:
            print(error, file=sys.stderr)
            return EXIT_BUSY
        for each in leases:  # whoever made them may be gone
            each.release()
        return status


def _end(error: lease.Lost) -> None:
    """Another host trains the cells: end at once, whatever the training is at."""
    print(error, file=sys.stderr, flush=True)
    os._exit(EXIT_BUSY)


def _run(group: Group, tell: TextIO) -> int:
    with _timeout(group):
        return _outcome(group, tell)


@contextmanager
def _timeout(group: Group) -> Iterator[None]:
    """Stop the group when the time that its record gives it is up; if it hangs, end this process, telling where."""
    seconds = group.first.get("timeout")
    if not seconds:
        yield
        return
    signal.signal(signal.SIGALRM, group.time_out)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True, file=2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()


def _outcome(group: Group, tell: TextIO) -> int:
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, group.stop)
        for run in group.runs:
            run["status"] = "running"  # also where an earlier attempt failed
        started = group.first.get("started") or store.now()
        group.update(status="running", started=started, ended=None, error=None, pid=os.getpid())
        _train(group, tell)
        _ignore_signals()  # the work is done: what is left is to say so
    except Stopped:
        if group.timed_out:
            group.end("failed", timed_out(group.first["timeout"]))
            return EXIT_FAILED
        group.end("stopped")
        return EXIT_STOPPED
    except lease.Lost:
        raise
    except (Exception, SystemExit) as error:
        _ignore_signals()
        try:
            group.end("failed", _said(error))
        except OSError:  # a full disk, most likely: whoever started this process writes the record
            traceback.print_exc()
            sys.exit(EXIT_TRANSIENT)
        traceback.print_exc()
        return EXIT_TRANSIENT if faults.is_transient(error) else EXIT_FAILED
    group.end("done")
    group.drop_checkpoints()
    return EXIT_FAILED if group.failed else 0


def timed_out(seconds: float) -> str:
    """What is said of a cell whose time is up."""
    return f"timed out after {duration.told(seconds)}"


def _train(group: Group, tell: TextIO) -> None:
    _say(tell, event="stage", text="loading")
    started = time.perf_counter()
    import torch

    from flowbench import machine
    from flowbench.events import Lost, Row, Save, Tick

    run = group.first
    device = torch.device(_device(run["device"], torch.cuda.is_available()))
    torch.set_num_threads(int(run["threads"]))
    _say(tell, event="stage", text="building")
    task = store.task(run)
    success = suites.success(task)
    trainer, places = _trainer(group, task, success, device, tell)
    loading = trainer.clock.started - started
    group.update(
        startup=time.perf_counter() - started,
        success_from=success,
        device=str(device),
        learner={
            "kind": trainer.kind,
            "replay": str(trainer.replay_device),
            "environment_processes": places.environments,
            "evaluation_processes": places.evaluation,
        },
        parameters=trainer.parameter_count,
        sizes=dict(zip(("obs", "act"), trainer.sizes, strict=True)),
        versions=machine.versions(suites.packages(task.source)),
        machine={
            "cpu": machine.cpu_model(),
            "cores": machine.cores(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        },
    )

    def say(**event: Any) -> None:
        try:
            _say(tell, **event)
        except Stopped:
            trainer.stop()

    with closing(trainer):
        checkpoints = Checkpoints(group, trainer, partial(_note, group, tell))
        group.trainer = trainer
        group.children = places.environments + places.evaluation
        group.check()
        with _tables(group, trainer.columns, checkpoints.sizes) as tables, _mirrors(group, trainer.step) as mirrored:
            for happened in trainer.run():
                if isinstance(happened, Row):
                    group.check()
                    tables[happened.table, happened.seed].append(happened.values)
                    mirrored[happened.seed].append(happened.table, happened.values)
                    if happened.table == "evals":
                        values = happened.values
                        say(event="evaluation", seed=happened.seed, step=values["step"], mean=values["mean"])
                elif isinstance(happened, Tick):
                    say(event="tick", step=happened.step, speed=happened.steps_per_second)
                elif isinstance(happened, Lost):
                    group.fail(happened.seed, happened.error)
                elif isinstance(happened, Save):
                    group.check()
                    checkpoints.save(happened.step)
    if not trainer.finished:
        raise Stopped
    _keep_weights(group, trainer)
    for record in group.runs:
        record["wall"] = {what: round(seconds, 3) for what, seconds in trainer.clock.split().items()}
        record["seconds"] = loading + trainer.clock.total


class Checkpoints:
    """The checkpoints of a group's cells: a trainer takes up the newest, and new ones are written."""

    def __init__(self, group: Group, trainer: Trainer, note: Callable[[str], None]) -> None:
        """`note` hears what a user should know of going on. Raises RuntimeError when the trainer cannot."""
        self.sizes: list[Mapping[str, int]] = [{} for _ in group.folders]  # of the tables, where a run is gone on with
        self._group, self._trainer = group, trainer
        self._writers = [checkpoint.Writer(folder) for folder in group.folders]
        found = checkpoint.newest(group.folders)
        if not found:
            self._begin()
            return
        step = found[0].step
        try:
            notes = trainer.restore([each.state for each in found], [each.transitions for each in found])
        except Exception as error:
            start_over = "flowbench run --force starts over"
            raise RuntimeError(f"cannot go on from the checkpoint of step {step}: {error}; {start_over}") from error
        group.check()
        self.sizes = [each.tables for each in found]
        self._writers = [checkpoint.Writer.going_on(folder, step) for folder in group.folders]
        print(f"goes on from step {step}", file=sys.stderr)
        for run in group.runs:
            stretches = [run.get("began", {}), *run.get("resumed", [])]
            notes += _changes(stretches[-1], _stretch(run))
            run["resumed"] = [*stretches[1:], {"at": store.now(), "step": step, **_stretch(run)}]
        group.update()
        for text in dict.fromkeys(notes):
            note(text)

    def _begin(self) -> None:
        """Begin anew: what an earlier attempt left without a whole checkpoint goes."""
        for folder, run in zip(self._group.folders, self._group.runs, strict=True):
            checkpoint.remove(folder)
            shutil.rmtree(folder / mirrors.TENSORBOARD, ignore_errors=True)
            run.pop("resumed", None)
            run["began"] = _stretch(run)
        self._group.update()

    def save(self, step: int) -> None:
        """Write a checkpoint of every cell, also of those that came to nothing: the others go on beside them."""
        trainer = self._trainer
        for slot, writer in enumerate(self._writers):
            writer.write(step, TABLES, trainer.state(slot), partial(trainer.transitions, slot), trainer.held)


def _keep_weights(group: Group, trainer: Trainer) -> None:
    """Write the weights of every cell that has come to its end, where they are asked for. Raises lease.Lost."""
    group.check()
    for slot, (folder, run) in enumerate(zip(group.folders, group.runs, strict=True)):
        if run["status"] != "failed" and run.get("keep_weights"):
            weights.write(folder, run, trainer.step, *trainer.sizes, trainer.weights(slot))


def _trainer(
    group: Group, task: suites.Task, success: float | None, device: torch.device, tell: TextIO
) -> tuple[Trainer, Places]:
    """The trainer of a group as its records want it, and where its work is done."""
    import algos
    from flowbench import overrides
    from flowbench.trainer import Trainer

    run = group.first
    entry = algos.Entry(run["algo"]["name"], run["algo"]["target"])
    algorithm = entry.load()
    if entry.digest() != run["algo"]["sha256"]:
        raise RuntimeError(f"{entry.path} was changed between planning and training")
    places = spread(len(group.runs), device, run)
    places.apply()

    trainer = Trainer(
        partial(suites.make, task),
        algorithm,
        overrides.restore(algorithm.Config, run["config"]),
        [record["seed"] for record in group.runs],
        steps=run["protocol"]["steps"],
        evaluate_every=run["protocol"]["every"],
        evaluation_episodes=run["protocol"]["episodes"],
        places=places,
        build_agent=partial(build_agent, run["algo"]["name"], run["algo"]["target"], run["config"]),
        save_every=run.get("checkpoint_every"),
        success=success,
    )
    if trainer.note:
        _note(group, tell, trainer.note)
    return trainer, places


def _note(group: Group, tell: TextIO, text: str) -> None:
    """Something a user should know, in the log and where the grid is watched."""
    run = group.first
    text = f"{run['algo'].get('label', run['algo']['name'])} {run['task']['name']}: {text}"
    print(text, file=sys.stderr)
    _say(tell, event="note", text=text)


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


def _said(error: BaseException) -> str:
    """What a record says of an error."""
    if isinstance(error, FloatingPointError):
        return f"{line(error)}; it goes on from its checkpoint to the same, and --force starts it over"
    return line(error)


def build_agent(name: str, target: str, config: dict[str, Any], obs_dim: int, act_dim: int) -> Agent[Any]:
    """An agent of the algorithm, in whatever process it is wanted."""
    import algos
    from flowbench import overrides

    algorithm = algos.Entry(name, target).load()
    return algorithm(obs_dim, act_dim, overrides.restore(algorithm.Config, config))


def spread(seeds: int, device: torch.device, run: Mapping[str, Any]) -> Places:
    """Where a group's work is done: on a GPU, the cores that the learner leaves over step and evaluate."""
    from flowbench.places import Places

    precision = run.get("precision", "float32")
    if device.type == "cpu":
        return Places(device, stack=seeds > 1, precision=precision)
    spare = max(0, int(run["threads"]) - 1)
    stepping = min(seeds, spare)
    return Places(device, seeds > 1, precision, stepping, min(seeds, spare - stepping), run.get("per_gpu", 1))


@contextmanager
def _tables(
    group: Group, columns: Callable[[str], Sequence[str]], sizes: Sequence[Mapping[str, int]]
) -> Iterator[Mapping[tuple[str, int], rows.RowWriter]]:
    """The CSV files of every cell, by table and seed, begun anew or gone on with after so many bytes."""
    writers = {
        (Path(table).stem, run["seed"]): rows.RowWriter(folder / table, columns(Path(table).stem), size.get(table))
        for folder, run, size in zip(group.folders, group.runs, sizes, strict=True)
        for table in TABLES
    }
    try:
        yield writers
    finally:
        for writer in writers.values():
            writer.close()


@contextmanager
def _mirrors(group: Group, step: int) -> Iterator[Mapping[int, mirrors.Mirrors]]:
    """Where every cell's rows are copied to, by seed, from a step on."""
    started = {
        run["seed"]: mirrors.Mirrors(run.get("log", []), folder, run, step)
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


def _ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
