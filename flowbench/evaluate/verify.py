"""`flowbench verify`: train a finished run again with its recorded settings, and compare the evaluations."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from flowbench.common.errors import UsageError
from flowbench.common.text_table import plural
from flowbench.evaluate.trained_agent import find_algorithm
from flowbench.plan.cells import task_folder
from flowbench.schedule.executors.local import LocalExecutor
from flowbench.schedule.resources import Slots, choose_gpus
from flowbench.store import lock, records
from flowbench.store.records import RunRecord

CLOCK = "seconds"  # the only column of evals.csv that may differ


@dataclass(frozen=True)
class Verification:
    """Whether the evaluations of a run have repeated."""

    run: str
    evaluations: int  # recorded
    differences: list[str]  # the first value of each evaluation that differs; empty if all have repeated
    conditions: list[str]  # how machine and versions differ from those recorded
    error: str = ""  # why the run could not be trained again

    @property
    def repeats(self) -> bool:
        """Whether every evaluation has repeated exactly."""
        return not (self.differences or self.error)


def verify(
    folder: Path, algo: str | None = None, on_step: Callable[[int, int], None] = lambda step, steps: None
) -> Verification:
    """Train the run in a folder again in a temporary folder, with its seeds, device, precision and threads.

    Seeds that trained as one batch train together again. `algo` names the file of an algorithm that is not part of
    flowbench. `on_step` is called with the step and the number of steps. Raises UsageError.
    """
    try:
        run = records.read_run(folder)
    except records.NotARun as error:
        raise UsageError(str(error)) from error
    if run.published or run.status != "done":
        why = "an imported curve" if run.published else run.status
        raise UsageError(f"{str(folder)!r} is {why}: only a finished run of flowbench can be verified")
    expected = _evaluations(folder)
    if not expected:
        raise UsageError(f"{str(folder)!r} has no evaluations to compare")
    entry = find_algorithm(run.algo, algo)
    gpus = choose_gpus(run.device or "cpu", None)[:1]
    if (run.device or "cpu") != "cpu" and not gpus:
        raise UsageError(f"the run was trained on {run.device}, and this machine has no CUDA device")
    slots = Slots(1, run.device or "cpu", run.threads or 1, gpus, run.precision or "float32", run.per_gpu or 1)
    stacked = run.learner is not None and run.learner.kind == "stacked"
    seeds = (run.group or [run.seed]) if stacked else [run.seed]
    algorithm = replace(run.algo, target=entry.target, code=entry.code())
    planned = replace(
        RunRecord(
            status="queued", suite=run.suite, task=run.task, algo=algorithm,
            config_id=run.config_id, config=run.config, protocol=run.protocol, seed=run.seed, group=seeds,
        ),
        device=slots.device, threads=slots.threads, precision=slots.precision, per_gpu=slots.per_gpu,
        checkpoint_every=run.checkpoint_every, keep_checkpoints=False, keep_weights=False, log=[],
    )  # fmt: skip

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "tick":
            on_step(event["step"], run.protocol.steps)

    with tempfile.TemporaryDirectory(prefix="flowbench-verify-") as name, ExitStack() as held:
        variant = Path(name, run.suite.name, task_folder(run.task.name), run.algo.name, f"again-{run.config_id}")
        folders = [variant / f"seed-{seed}" for seed in seeds]
        locks = []
        for seed, again in zip(seeds, folders, strict=True):
            records.write_run(again, replace(planned, seed=seed))
            locks.append(held.enter_context(lock.hold(again)).descriptor)
        with (variant / "log.txt").open("w", encoding="utf-8") as log:
            code = LocalExecutor(slots).work(folders, locks, log, report)
        mine = variant / f"seed-{run.seed}"
        ended = records.read_run(mine)
        failure = ""
        if ended.status != "done":
            lines = (variant / "log.txt").read_text(encoding="utf-8", errors="replace").split("\n")
            failure = ended.error or next((line for line in reversed(lines) if line.strip()), f"exit status {code}")
        found = _evaluations(mine)
    differences = [] if failure else _differences(expected, found)
    return Verification(
        f"{run.algo.label} {run.task.name} seed {run.seed}",
        len(expected),
        differences,
        _conditions(run, ended),
        failure,
    )


def _evaluations(folder: Path) -> dict[int, dict[str, str]]:
    """The evaluations by step, as text and without the clock; the later row of a step counts."""
    path = folder / "evals.csv"
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {int(row["step"]): {k: v for k, v in row.items() if k != CLOCK} for row in csv.DictReader(file)}


def _differences(expected: dict[int, dict[str, str]], found: dict[int, dict[str, str]]) -> list[str]:
    texts = []
    for step in sorted({*expected, *found}):
        before, now = expected.get(step, {}), found.get(step, {})
        key = next((key for key in {**before, **now} if before.get(key) != now.get(key)), None)
        if key:
            texts.append(f"step {step:,}: {key} is {now.get(key, 'missing')}, recorded {before.get(key, 'missing')}")
    return texts


def _conditions(before: RunRecord, now: RunRecord) -> list[str]:
    """The hardware and the versions that differ from those recorded."""

    def facts(run: RunRecord) -> dict[str, Any]:
        machine = {k: v for k, v in msgspec.to_builtins(run.machine).items() if k != "threads"} if run.machine else {}
        own = {"device": run.device, "precision": run.precision, "threads": run.threads}
        if before.algo.code is not None:
            own["code of the algorithm"] = run.algo.code
        return {**machine, **own, **(run.versions or {})}

    if now.machine is None:  # it did not get that far
        return []
    old, new = facts(before), facts(now)
    texts = [
        f"{key} is {new.get(key)}, recorded {old.get(key)}" for key in {**old, **new} if old.get(key) != new.get(key)
    ]
    times = len(before.resumed or [])
    return [*texts, *([f"the recorded run was resumed {plural(times, 'time')}"] if times else [])]
