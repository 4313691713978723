"""Which device and how many processes a group trains with, and in which precision."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Placement:
    """How the work of a group is distributed. The number of processes does not change the numbers of a run."""

    device: torch.device
    stack: bool = False  # train all seeds as one batched computation
    precision: str = "float32"  # of matrix products: float32, tf32 or bfloat16
    environments: int = 0  # worker processes that step the training environments; with 0 this process does
    evaluation: int = 0  # worker processes that evaluate concurrently with training; with 0 this process evaluates
    sharers: int = 1  # groups that may train on the device at the same time
    graphs: bool = True  # on a GPU, replay updates and actions as CUDA graphs

    @property
    def uses_graphs(self) -> bool:
        """Whether updates and actions are replayed as CUDA graphs."""
        return self.graphs and self.device.type == "cuda"

    def apply(self) -> None:
        """Set torch's global switches. They concern GPUs only.

        On a GPU each stream gets a cuBLAS workspace of its own. Otherwise concurrent streams could change sums.
        """
        if self.device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
        torch.backends.cuda.matmul.allow_tf32 = self.precision == "tf32"

    def autocast(self) -> AbstractContextManager[object]:
        """The context for losses and policies: matrix products in bfloat16 if that is the precision.

        Enter a new one for each computation: autocast caches the converted weights, and an optimiser step changes them.
        """
        if self.precision != "bfloat16":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def spread(
    seeds: int, device: torch.device, *, threads: int, precision: str = "float32", per_gpu: int = 1
) -> Placement:
    """The placement of a group of `seeds` seeds that has `threads` threads and shares its GPU with `per_gpu` groups.

    On a GPU, the cores that the learner does not need step environments and evaluate.
    """
    if device.type == "cpu":
        return Placement(device, stack=seeds > 1, precision=precision)
    spare = max(0, threads - 1)
    stepping = min(seeds, spare)
    return Placement(device, seeds > 1, precision, stepping, min(seeds, spare - stepping), per_gpu)


def device(name: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda". Raises RuntimeError, with the reason, for "cuda" if it cannot be used."""
    cuda = torch.cuda.is_available()
    if name == "cuda" and not cuda:
        raise RuntimeError(
            f"no CUDA device can be used here ({_why_no_cuda()}); run with --device cpu to train without"
        )
    return torch.device("cuda" if name != "cpu" and cuda else "cpu")


def _why_no_cuda() -> str:
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (AssertionError, RuntimeError) as error:
        return " ".join(str(error).split())
    return f"torch {torch.__version__} finds none"
