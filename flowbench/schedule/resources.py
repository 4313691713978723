"""How many groups train at once, where, and with what share of the machine."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from flowbench.common import system
from flowbench.common.errors import UsageError

STACK_ON_GPU = 8


@dataclass(frozen=True)
class Slots:
    """How many groups train at once, on which device, with how many threads each."""

    jobs: int
    device: str  # "auto", "cpu" or "cuda"
    threads: int  # cores of a group
    gpus: tuple[str, ...] = ()  # those to train on, each as CUDA_VISIBLE_DEVICES names it
    precision: str = "float32"  # of matrix products
    per_gpu: int = 1  # groups that share a GPU at most


def stack_size(stack: int | None, gpus: int) -> int:
    """Seeds a group: `stack`, or what pays off: several on a GPU, which one seed cannot fill, and one on a CPU."""
    return stack or (STACK_ON_GPU if gpus else 1)


def choose_gpus(device: str, wanted: str | None) -> tuple[str, ...]:
    """The GPUs to train on: all, or those whose places among the visible ones `wanted` lists, such as "0,1".

    Raises UsageError.
    """
    if device == "cpu":
        if wanted is not None:
            raise UsageError(f"--gpus {wanted!r} is not for --device cpu")
        return ()
    visible = system.gpus()
    if wanted is None:
        return tuple(visible)
    if not visible:
        raise UsageError(f"--gpus {wanted!r}: there is no CUDA device here")
    if wanted == "all":
        return tuple(visible)
    parts = [part.strip() for part in wanted.split(",")]
    known = [str(place) for place in range(len(visible))]
    for part in parts:
        if part not in known:
            raise UsageError(f"--gpus {wanted!r}: there is no GPU {part!r} (choices: all, {', '.join(known)})")
    if len(set(parts)) < len(parts):
        raise UsageError(f"--gpus {wanted!r} names a GPU twice; --per-gpu puts several groups on one")
    return tuple(visible[int(part)] for part in parts)


def share(
    device: str,
    jobs: int | None,
    precision: str | None = None,
    *,
    gpus: tuple[str, ...] = (),
    per_gpu: int | None = None,
    threads: int | None = None,
    cores: Sequence[int] = (),
) -> Slots:
    """As many groups at once as there are GPUs, or cores, or `jobs`; each with its share of the cores as threads.

    `cores` are those of each machine, of this one if left out. With `per_gpu`, that many on each GPU, and `jobs` only
    caps their number. The threads of a cell decide its last bits, so they follow from the machines and these options
    alone: not from how many cells happen to be left.
    Raises UsageError for `per_gpu` without a GPU.
    """
    if per_gpu and not gpus:
        raise UsageError("--per-gpu: there is no GPU to share; --jobs sets how many groups train at once on a CPU")
    cores = cores or [system.cores()]
    if per_gpu:
        room = len(gpus) * per_gpu
        wanted = min(room, jobs or room)
    else:
        wanted = jobs or len(gpus) or sum(cores)
    return Slots(
        wanted,
        device,
        threads or max(1, min(cores) // math.ceil(wanted / len(cores))),
        gpus,
        precision or ("tf32" if gpus else "float32"),
        math.ceil(wanted / len(gpus)) if gpus else 1,
    )


class Cards:
    """Lends GPUs to groups, each time the one that the fewest groups train on."""

    def __init__(self, gpus: tuple[str, ...]) -> None:
        self._load = dict.fromkeys(gpus, 0)
        self._mutex = threading.Lock()

    @contextmanager
    def lend(self) -> Iterator[str | None]:
        """The least loaded GPU, the first of several; None where there is none."""
        if not self._load:
            yield None
            return
        with self._mutex:
            gpu = min(self._load, key=self._load.__getitem__)
            self._load[gpu] += 1
        try:
            yield gpu
        finally:
            with self._mutex:
                self._load[gpu] -= 1
