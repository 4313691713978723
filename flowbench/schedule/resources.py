"""How many groups train at the same time, where, and with what share of the machine."""

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
    """How many groups train at the same time, on which device, with how many threads each."""

    jobs: int
    device: str  # "auto", "cpu" or "cuda"; "cuda" if there are GPUs, so that a worker without its GPU fails
    threads: int  # per group
    gpus: tuple[str, ...] = ()  # named as in CUDA_VISIBLE_DEVICES
    precision: str = "float32"  # of matrix products
    per_gpu: int = 1  # the most groups that share a GPU


def stack_size(stack: int | None, gpus: int) -> int:
    """Seeds per group: `stack`, or by default several on a GPU, which one seed cannot fill, and one on a CPU."""
    return stack or (STACK_ON_GPU if gpus else 1)


def choose_gpus(device: str, wanted: str | None) -> tuple[str, ...]:
    """The GPUs to train on: all, or those at the positions in `wanted`, such as "0,1", among the visible ones.

    Raises UsageError.
    """
    if device == "cpu":
        if wanted is not None:
            raise UsageError(f"--gpus {wanted!r} cannot be used with --device cpu")
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
        raise UsageError(f"--gpus {wanted!r} names a GPU twice; use --per-gpu to train several groups on one")
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
    """As many groups as there are GPUs, or cores, or `jobs`; each gets an equal share of the cores as threads.

    `cores` holds the number of cores of each machine; by default those of this one. With `per_gpu` that many groups
    share each GPU, and `jobs` only limits their number. The number of threads affects the rounding of a run, so it
    depends only on the machines and these options, not on how many cells are left.
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
        "cuda" if gpus else device,
        threads or max(1, min(cores) // math.ceil(wanted / len(cores))),
        gpus,
        precision or ("tf32" if gpus else "float32"),
        math.ceil(wanted / len(gpus)) if gpus else 1,
    )


class GpuPool:
    """Assigns GPUs to groups: always the one with the fewest groups."""

    def __init__(self, gpus: tuple[str, ...]) -> None:
        self._load = dict.fromkeys(gpus, 0)
        self._mutex = threading.Lock()

    @contextmanager
    def assign(self) -> Iterator[str | None]:
        """The first of the least loaded GPUs; None if there is no GPU."""
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
