"""How many groups train at once, where, and with what share of the machine."""

from __future__ import annotations

from dataclasses import dataclass

from flowbench import machine

STACK_ON_GPU = 8


@dataclass(frozen=True)
class Slots:
    """How many groups train at once, on which device, with how many threads each."""

    jobs: int
    device: str  # "auto", "cpu" or "cuda"
    threads: int  # cores of a group
    gpus: int
    precision: str = "float32"  # of matrix products


def stack_size(stack: int | None, gpus: int) -> int:
    """Seeds a group: `stack`, or what pays off: several on a GPU, which one seed cannot fill, and one on a CPU."""
    return stack or (STACK_ON_GPU if gpus else 1)


def share(device: str, jobs: int | None, precision: str | None = None) -> Slots:
    """As many groups at once as there are GPUs, or cores, or `jobs`; each with its share of the cores as threads.

    The threads of a cell decide its last bits, so they follow from the machine and `jobs` alone: not from how many
    cells happen to be left.
    """
    gpus = machine.gpu_count() if device in ("auto", "cuda") else 0
    cores = machine.cores()
    wanted = jobs or gpus or cores
    return Slots(wanted, device, max(1, cores // wanted), gpus, precision or ("tf32" if gpus else "float32"))
