"""What a grid will take, in hours and memory, from the records of runs that are finished."""

from __future__ import annotations

import dataclasses
import heapq
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowbench.common import system
from flowbench.plan.cells import Cell, task_folder
from flowbench.schedule.groups import Group
from flowbench.schedule.resources import Slots
from flowbench.store import checkpoint, records

Record = Mapping[str, Any]  # a run.json
MEASURED = ("seconds", "startup", "wall", "memory", "sizes", "learner", "machine", "precision", "threads", "device")

# Whole numbers among the hyperparameters are sizes and counts, which decide the cost of an update. These two do not:
# one says how many steps have none, the other is accounted for by itself.
FREE = ("random_steps", "replay_size")
MOST = 0.85  # of a memory, that groups are let to share


@dataclass(frozen=True)
class Need:
    """What a group will take, and how that is known."""

    seconds: float
    host_bytes: int | None
    gpu_bytes: int | None
    basis: str


@dataclass(frozen=True)
class Here:
    """What estimates are for: runs of other circumstances stand further off."""

    device: str  # "cpu" or "cuda"
    processor: str  # its name, or the GPU's
    threads: int
    per_gpu: int
    precision: str

    @staticmethod
    def of(slots: Slots) -> Here:
        """What the slots make of this machine."""
        if not slots.gpus:
            return Here("cpu", system.cpu_model(), slots.threads, 1, slots.precision)
        model = system.gpu_model(slots.gpus[0])
        return Here("cuda", model[0] if model else "", slots.threads, slots.per_gpu, slots.precision)


def earlier(root: Path, cells: Iterable[Cell]) -> list[Record]:
    """The finished runs below `root` of these cells' tasks and algorithms."""
    lines = {(task_folder(cell.task.name), cell.variant.entry.name) for cell in cells}
    paths = [path for task, algo in sorted(lines) for path in root.glob(f"*/{task}/{algo}/*/seed-*/run.json")]
    return [record for path in sorted(paths) if tells(record := records.recorded(path.parent))]


def tells(record: Record) -> bool:
    """Whether a record says what its run took."""
    return record.get("status") == "done" and all(key in record for key in MEASURED)


def need(group: Group, records: Iterable[Record], here: Here, step: int = 0) -> Need | None:
    """What a group needs from `step` on, by the nearest earlier runs; None where none is near enough.

    Near enough are runs of the algorithm on the task and kind of device, with as many seeds trained together and the
    same sizes; their other settings, threads and processor may differ, which the basis says.
    """
    cell = group.cells[0]
    differing = [(record, _differences(record, cell, here)) for record in records if _same_cost(record, group, here)]
    if not differing:
        return None
    fewest = min((differs for _, differs in differing), key=lambda differs: list(differs.values()))
    told = _told(fewest)
    nearest = [record for record, differs in differing if _told(differs) == told]
    memory = [_memory(record, group) for record in nearest]
    runs = f"{len(nearest)} earlier run{'s' * (len(nearest) > 1)}"
    return Need(
        statistics.median(_seconds(record, cell, step) for record in nearest),
        _largest(host for host, _ in memory),
        _largest(gpu for _, gpu in memory),
        ", ".join(["calibration" if nearest[0].get("calibration") else runs, *told]),
    )


def needs(groups: Sequence[Group], records: Sequence[Record], here: Here, steps: Sequence[int]) -> list[Need | None]:
    """`need` of each group, from the step that it goes on from."""
    found: dict[tuple[object, ...], Need | None] = {}
    keys = [(*_kind(group), step) for group, step in zip(groups, steps, strict=True)]
    for key, group, step in zip(keys, groups, steps, strict=True):
        if key not in found:
            found[key] = need(group, records, here, step)
    return [found[key] for key in keys]


def one_of_each(groups: Iterable[Group]) -> list[Group]:
    """The first group of each kind: of those that differ in their seeds alone."""
    first: dict[tuple[object, ...], Group] = {}
    for group in groups:
        first.setdefault(_kind(group), group)
    return list(first.values())


def _kind(group: Group) -> tuple[object, ...]:
    cell = group.cells[0]
    return cell.task.source, cell.task.name, cell.task.action_repeat, cell.variant.config_id, len(group.cells)


def reached(root: Path, group: Group) -> int:
    """The step from which a group goes on."""
    steps = [checkpoint.steps(root / cell.path) for cell in group.cells]
    return min(max(each, default=0) for each in steps)


def duration(needs: Sequence[Need | None], jobs: int) -> float | None:
    """Seconds until the last of the groups ends, `jobs` at once in their order; None where one is unknown."""
    free = [0.0] * jobs
    for need in needs:
        if need is None:
            return None
        heapq.heapreplace(free, free[0] + need.seconds)
    return max(free)


def host_bytes(needs: Sequence[Need | None], jobs: int) -> int | None:
    """Main memory of the `jobs` largest groups together; None where one is unknown."""
    known = [need.host_bytes for need in needs if need and need.host_bytes is not None]
    return sum(sorted(known)[-jobs:]) if len(known) == len(needs) else None


def gpu_bytes(needs: Sequence[Need | None], per_gpu: int) -> int | None:
    """The same of one GPU."""
    known = [need.gpu_bytes for need in needs if need and need.gpu_bytes is not None]
    return sum(sorted(known)[-per_gpu:]) if len(known) == len(needs) else None


def per_gpu(needs: Sequence[Need | None], gpus: int, card: int | None, main: int, cores: int) -> tuple[int, str]:
    """How many groups may share a GPU of `card` bytes beside `main` bytes of main memory, and why.

    One where that is not known.
    """
    of_gpu = [need.gpu_bytes for need in needs if need and need.gpu_bytes]
    of_host = [need.host_bytes for need in needs if need and need.host_bytes]
    unknown = len(needs) - min(len(of_gpu), len(of_host))
    if unknown:
        return 1, f"the memory of {unknown} of {len(needs)} kinds of groups is not known; --calibrate measures it"
    if card is None:
        return 1, "the driver does not tell how much memory a GPU has"
    if not needs:
        return 1, "there is nothing to train"
    on_gpu, on_host = max(of_gpu), max(of_host)
    room = {
        f"one takes {gigabytes(on_gpu)} of a GPU's {gigabytes(card)}": int(MOST * card) // on_gpu,
        f"one takes {gigabytes(on_host)} of the {gigabytes(main)} of main memory": int(MOST * main) // (gpus * on_host),
        f"there are {cores} cores": cores // gpus,
    }
    why = min(room, key=room.__getitem__)
    return max(1, room[why]), why


def gigabytes(count: int) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.1f} GiB"


def hours(seconds: float) -> str:
    """A duration for people, as exact as an estimate can be."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _same_cost(record: Record, group: Group, here: Here) -> bool:
    """Whether a run did with each step what the group will do."""
    cell = group.cells[0]
    return (
        (record["task"]["source"], record["task"]["name"]) == (cell.task.source, cell.task.name)
        and record["algo"]["name"] == cell.variant.entry.name
        and str(record["device"]).startswith(here.device)
        and len(record["group"]) == len(group.cells)
        and record["task"]["action_repeat"] == cell.task.action_repeat
        and record["algo"].get("sha256") == cell.variant.source
        and _sizes(record["config"]) == _sizes(dataclasses.asdict(cell.variant.config))
        and record["protocol"]["steps"] > record["config"].get("random_steps", 0)
    )


def _told(differences: Mapping[str, bool]) -> list[str]:
    return [text for text, differs in differences.items() if differs]


def _sizes(config: Mapping[str, Any]) -> dict[str, int]:
    return {key: value for key, value in config.items() if type(value) is int and key not in FREE}


def _differences(record: Record, cell: Cell, here: Here) -> dict[str, bool]:
    """In what a run may differ that changes a little what it took, what weighs most first; whether it does."""
    asked = json.loads(json.dumps(dataclasses.asdict(cell.variant.config)))
    settings = {key: value for key, value in record["config"].items() if key not in FREE}
    where = record["machine"]["gpu"] or record["machine"]["cpu"]
    sharers = record.get("per_gpu", 1)
    return {
        "with other settings": settings != {key: value for key, value in asked.items() if key not in FREE},
        f"on {where}": where != here.processor,
        f"in {record['precision']}": record["precision"] != here.precision,
        f"{sharers} a GPU": sharers != here.per_gpu,
        f"with {record['threads']} thread{'s' * (record['threads'] > 1)}": record["threads"] != here.threads,
    }


def _seconds(record: Record, cell: Cell, step: int) -> float:
    """A cell's seconds from `step` on, at the speed of an earlier run.

    Acting and updates begin after the random steps; evaluations have a cost each, unless they were made beside
    training: then what is waited for at the end is that of the last.
    """
    wall, protocol, asked = record["wall"], record["protocol"], cell.variant.protocol
    building = record["startup"] - (record["seconds"] - wall["total"])
    learning = wall["act"] + wall["replay"] + wall["update"]
    always = wall["environment"] + max(0.0, wall["other"] - building)
    random, random_then = cell.variant.config.random_steps, record["config"]["random_steps"]
    beside = record["learner"]["evaluation_processes"]
    then = math.ceil(protocol["steps"] / protocol["every"]) * protocol["episodes"]
    now = (math.ceil(asked.steps / asked.every) - step // asked.every) * asked.episodes
    return float(
        record["startup"]
        + always / protocol["steps"] * (asked.steps - step)
        + learning / (protocol["steps"] - random_then) * (asked.steps - max(step, random))
        + wall["evaluation"] * (1 if beside else now / then)
    )


def _memory(record: Record, group: Group) -> tuple[int | None, int | None]:
    """Main memory and that of a GPU: an earlier run's, its replay exchanged for the one that this group will have."""
    taken = record["memory"]
    variant, count = group.cells[0].variant, len(group.cells)
    more = _replay_bytes(record, dataclasses.asdict(variant.config), variant.protocol.steps, count)
    more -= _replay_bytes(record, record["config"], record["protocol"]["steps"], count)
    on_gpu = record["learner"]["replay"] != "cpu"
    return _plus(taken["host_bytes"], 0 if on_gpu else more), _plus(taken["gpu_bytes"], more if on_gpu else 0)


def _replay_bytes(record: Record, config: Mapping[str, Any], steps: int, seeds: int) -> int:
    from algos.agent import Config
    from flowbench.train.replay import Replay

    sizes = Config(replay_size=config["replay_size"], batch_size=config["batch_size"])
    return Replay.bytes_needed(range(seeds), record["sizes"]["obs"], record["sizes"]["act"], sizes, steps)


def _plus(taken: int | None, more: int) -> int | None:
    return None if taken is None else max(0, taken + more)


def _largest(counts: Iterable[int | None]) -> int | None:
    """The largest that is known."""
    return max((count for count in counts if count is not None), default=None)
