"""The cost of a grid in hours and memory, estimated from the records of finished runs."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowbench.common import system
from flowbench.common.pace import time_left
from flowbench.common.text_table import plural
from flowbench.plan.cells import Cell, task_folder
from flowbench.schedule.groups import Group
from flowbench.schedule.resources import Slots
from flowbench.store import checkpoint, records
from flowbench.store.records import LearnerInfo, Memory, RunRecord, Sizes

# Integer hyperparameters are sizes and counts, which determine the cost of an update. These two do not: during
# random_steps there are no updates, and the memory of the replay buffer is computed separately.
FREE = ("random_steps", "replay_size")
MOST = 0.85  # the fraction of a memory that all groups together may use


@dataclass(frozen=True)
class Cost:
    """The estimated cost of a group, and what the estimate is based on."""

    seconds: float
    host_bytes: int | None
    gpu_bytes: int | None
    basis: str


@dataclass(frozen=True)
class Conditions:
    """The conditions of an estimate; runs under the same conditions are preferred."""

    device: str  # "cpu" or "cuda"
    processor: str  # name of the CPU or GPU
    threads: int
    per_gpu: int
    precision: str

    @staticmethod
    def of(slots: Slots) -> Conditions:
        """The conditions of these slots on this machine."""
        if not slots.gpus:
            return Conditions("cpu", system.cpu_model(), slots.threads, 1, slots.precision)
        model = system.gpu_model(slots.gpus[0])
        return Conditions("cuda", model[0] if model else "", slots.threads, slots.per_gpu, slots.precision)


@dataclass(frozen=True)
class Measurement:
    """The measured cost of a finished run."""

    record: RunRecord
    conditions: Conditions
    seconds: float
    startup: float
    wall: Mapping[str, float]
    memory: Memory
    sizes: Sizes
    learner: LearnerInfo
    calibration: bool = False  # from a short run of --calibrate

    @staticmethod
    def of(record: RunRecord | None) -> Measurement | None:
        """The measurement in a record; None if the run is not finished, or if the record lacks a value."""
        if (
            record is None
            or record.status != "done"
            or record.group is None
            or record.device is None
            or record.threads is None
            or record.precision is None
            or record.seconds is None
            or record.startup is None
            or record.wall is None
            or record.memory is None
            or record.sizes is None
            or record.learner is None
            or record.machine is None
        ):
            return None
        processor = record.machine.gpu or record.machine.cpu
        conditions = Conditions(record.device, processor, record.threads, record.per_gpu or 1, record.precision)
        return Measurement(
            record, conditions, record.seconds, record.startup, record.wall, record.memory, record.sizes, record.learner
        )


def measurements(root: Path, cells: Iterable[Cell]) -> list[Measurement]:
    """The measurements of the finished runs in `root` that have a task and algorithm of these cells."""
    pairs = {(task_folder(cell.task.name), cell.variant.entry.name) for cell in cells}
    paths = [path for task, algo in sorted(pairs) for path in root.glob(f"*/{task}/{algo}/*/seed-*/run.json")]
    found = (Measurement.of(records.read_if_valid(path.parent)) for path in sorted(paths))
    return [each for each in found if each]


def cost(group: Group, measured: Iterable[Measurement], here: Conditions, step: int = 0) -> Cost | None:
    """The cost of a group from `step` on, by the most similar earlier runs; None if there is no comparable run.

    Comparable runs have the same algorithm, task, kind of device, number of seeds trained together, and sizes. Other
    settings, threads and the processor may differ; `basis` names these differences.
    """
    cell = group.cells[0]
    differing = [(each, _differences(each, cell, here)) for each in measured if _is_comparable(each, group, here)]
    if not differing:
        return None
    fewest = min((differs for _, differs in differing), key=lambda differs: list(differs.values()))
    named = _named(fewest)
    nearest = [each for each, differs in differing if _named(differs) == named]
    memory = [_memory(each, group) for each in nearest]
    runs = plural(len(nearest), "earlier run")
    return Cost(
        statistics.median(_seconds(each, cell, step) for each in nearest),
        max((host for host, _ in memory if host is not None), default=None),
        max((gpu for _, gpu in memory if gpu is not None), default=None),
        ", ".join(["calibration" if nearest[0].calibration else runs, *named]),
    )


def costs(
    groups: Sequence[Group], measured: Sequence[Measurement], here: Conditions, steps: Sequence[int]
) -> list[Cost | None]:
    """`cost` of each group, from the step that it resumes from."""
    found: dict[tuple[object, ...], Cost | None] = {}
    keys = [(*_kind(group), step) for group, step in zip(groups, steps, strict=True)]
    for key, group, step in zip(keys, groups, steps, strict=True):
        if key not in found:
            found[key] = cost(group, measured, here, step)
    return [found[key] for key in keys]


def one_of_each(groups: Iterable[Group]) -> list[Group]:
    """The first group of each kind; groups of a kind differ only in their seeds."""
    first: dict[tuple[object, ...], Group] = {}
    for group in groups:
        first.setdefault(_kind(group), group)
    return list(first.values())


def _kind(group: Group) -> tuple[object, ...]:
    cell = group.cells[0]
    return cell.task.source, cell.task.name, cell.task.action_repeat, cell.variant.config_id, len(group.cells)


def resume_step(root: Path, group: Group) -> int:
    """The step from which a group resumes."""
    steps = [checkpoint.steps(root / cell.path) for cell in group.cells]
    return min(max(each, default=0) for each in steps)


def longest_first(costs: Sequence[Cost | None]) -> list[int]:
    """The positions of groups in the order in which they start, so that no long group trains alone at the end.

    Groups of unknown cost start first, because they may be long. Equally long groups keep their order.
    """
    return sorted(range(len(costs)), key=lambda place: -(each.seconds if (each := costs[place]) else math.inf))


def total_seconds(costs: Sequence[Cost | None], jobs: int) -> float | None:
    """Seconds until the last group ends, if `jobs` groups train concurrently in order; None if a cost is unknown."""
    known = [each.seconds for each in costs if each]
    return time_left([], known, jobs) if len(known) == len(costs) else None


def host_bytes(costs: Sequence[Cost | None], jobs: int) -> int | None:
    """Main memory of the `jobs` largest groups together; None if a cost is unknown."""
    return _largest_together([each.host_bytes if each else None for each in costs], jobs)


def gpu_bytes(costs: Sequence[Cost | None], per_gpu: int) -> int | None:
    """Memory of the `per_gpu` largest groups together on one GPU; None if a cost is unknown."""
    return _largest_together([each.gpu_bytes if each else None for each in costs], per_gpu)


def _largest_together(sizes: Sequence[int | None], count: int) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(sorted(known)[-count:]) if len(known) == len(sizes) else None


def per_gpu(costs: Sequence[Cost | None], gpus: int, card: int | None, main: int, cores: int) -> tuple[int, str]:
    """How many groups may share a GPU of `card` bytes, with `main` bytes of main memory, and why; 1 if unknown."""
    on_gpus = [each.gpu_bytes for each in costs if each and each.gpu_bytes]
    on_hosts = [each.host_bytes for each in costs if each and each.host_bytes]
    unknown = len(costs) - min(len(on_gpus), len(on_hosts))
    if unknown:
        return 1, f"the memory of {unknown} of {len(costs)} kinds of groups is not known; --calibrate measures it"
    if card is None:
        return 1, "the driver does not report how much memory a GPU has"
    if not costs:
        return 1, "there is nothing to train"
    on_gpu, on_host = max(on_gpus), max(on_hosts)
    room = {
        f"a group takes {gigabytes(on_gpu)} of a GPU's {gigabytes(card)}": int(MOST * card) // on_gpu,
        f"a group takes {gigabytes(on_host)} of {gigabytes(main)} main memory": int(MOST * main) // (gpus * on_host),
        f"there are {cores} cores": cores // gpus,
    }
    why = min(room, key=room.__getitem__)
    return max(1, room[why]), why


def gigabytes(count: int) -> str:
    """Bytes as text, in GiB."""
    return f"{count / 2**30:.1f} GiB"


def hours(seconds: float) -> str:
    """An estimated duration as text, rounded."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _is_comparable(measured: Measurement, group: Group, here: Conditions) -> bool:
    """Whether each step of a measured run did the same work as each step of the group."""
    cell, record = group.cells[0], measured.record
    return (
        (record.task.source, record.task.name) == (cell.task.source, cell.task.name)
        and record.algo.name == cell.variant.entry.name
        and measured.conditions.device.startswith(here.device)
        and len(record.group or ()) == len(group.cells)
        and record.task.action_repeat == cell.task.action_repeat
        and record.algo.sha256 == cell.variant.source
        and _size_settings(record.config) == _size_settings(dataclasses.asdict(cell.variant.config))
        and record.protocol.steps > record.config.get("random_steps", 0)
    )


def _named(differences: Mapping[str, bool]) -> list[str]:
    return [text for text, differs in differences.items() if differs]


def _size_settings(config: Mapping[str, Any]) -> dict[str, int]:
    return {key: value for key, value in config.items() if type(value) is int and key not in FREE}


def _differences(measured: Measurement, cell: Cell, here: Conditions) -> dict[str, bool]:
    """Conditions that change the cost a little, most important first, and whether they differ."""
    wanted = json.loads(json.dumps(dataclasses.asdict(cell.variant.config)))
    settings = {key: value for key, value in measured.record.config.items() if key not in FREE}
    there = measured.conditions
    return {
        "with other settings": settings != {key: value for key, value in wanted.items() if key not in FREE},
        f"on {there.processor}": there.processor != here.processor,
        f"in {there.precision}": there.precision != here.precision,
        f"{there.per_gpu} per GPU": there.per_gpu != here.per_gpu,
        f"with {plural(there.threads, 'thread')}": there.threads != here.threads,
    }


def _seconds(measured: Measurement, cell: Cell, step: int) -> float:
    """Seconds of a cell from `step` on, at the speed of an earlier run.

    Acting and updates begin after the random steps. Each evaluation has a cost, unless evaluations ran concurrently
    with training: then training waits only for the last one.
    """
    wall, protocol, planned = measured.wall, measured.record.protocol, cell.variant.protocol
    building = measured.startup - (measured.seconds - wall["total"])
    learning = wall["act"] + wall["replay"] + wall["update"]
    always = wall["environment"] + max(0.0, wall["other"] - building)
    random, random_then = cell.variant.config.random_steps, measured.record.config["random_steps"]
    then = math.ceil(protocol.steps / protocol.every) * protocol.episodes
    now = (math.ceil(planned.steps / planned.every) - step // planned.every) * planned.episodes
    return float(
        measured.startup
        + always / protocol.steps * (planned.steps - step)
        + learning / (protocol.steps - random_then) * (planned.steps - max(step, random))
        + wall["evaluation"] * (1 if measured.learner.evaluation_processes else now / then)
    )


def _memory(measured: Measurement, group: Group) -> tuple[int | None, int | None]:
    """Main and GPU memory of an earlier run, corrected for the size of the replay buffer of this group."""
    variant, count, record = group.cells[0].variant, len(group.cells), measured.record
    more = _replay_bytes(measured.sizes, dataclasses.asdict(variant.config), variant.protocol.steps, count)
    more -= _replay_bytes(measured.sizes, record.config, record.protocol.steps, count)
    on_gpu = measured.learner.replay != "cpu"
    taken = measured.memory
    return _plus(taken.host_bytes, 0 if on_gpu else more), _plus(taken.gpu_bytes, more if on_gpu else 0)


def _replay_bytes(sizes: Sizes, config: Mapping[str, Any], steps: int, seeds: int) -> int:
    from algos.agent import Config
    from flowbench.train.replay import Replay

    relevant = Config(replay_size=config["replay_size"], batch_size=config["batch_size"])
    return Replay.bytes_needed(range(seeds), sizes.obs, sizes.act, relevant, steps)


def _plus(taken: int | None, more: int) -> int | None:
    return None if taken is None else max(0, taken + more)
