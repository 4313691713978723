"""Where a group's work is done, and in which precision."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Places:
    """How a group's work is spread; the numbers of a run do not depend on the processes."""

    device: torch.device
    stack: bool = False  # all seeds as one batched computation
    precision: str = "float32"  # of matrix products: float32, tf32 or bfloat16
    environments: int = 0  # worker processes that step the training environments; 0 steps them in this one
    evaluation: int = 0  # worker processes that evaluate beside training; 0 evaluates in between
    sharers: int = 1  # groups that may train on the device at once

    def apply(self) -> None:
        """Set torch's own switch for the precision; of the GPU alone, because evaluation is on the CPU.

        On a GPU cuBLAS is given a workspace of its own a stream too, without which concurrent streams may change sums.
        """
        if self.device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
        torch.backends.cuda.matmul.allow_tf32 = self.precision == "tf32"

    def autocast(self) -> AbstractContextManager[object]:
        """What losses and policies are computed in: matrix products in bfloat16 when that is asked for.

        It is entered anew for each: it keeps weights it has cast, which an optimiser's step makes stale.
        """
        if self.precision != "bfloat16":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def spread(seeds: int, device: torch.device, precision: str, threads: int, sharers: int = 1) -> Places:
    """Where a group's work is done: on a GPU, the cores that the learner leaves over step and evaluate."""
    if device.type == "cpu":
        return Places(device, stack=seeds > 1, precision=precision)
    spare = max(0, threads - 1)
    stepping = min(seeds, spare)
    return Places(device, seeds > 1, precision, stepping, min(seeds, spare - stepping), sharers)


def device(asked: str) -> torch.device:
    """The device behind auto, cpu or cuda. Raises RuntimeError when there is none."""
    cuda = torch.cuda.is_available()
    if asked == "cuda" and not cuda:
        raise RuntimeError("no CUDA device here; run with --device cpu or auto")
    return torch.device("cuda" if asked != "cpu" and cuda else "cpu")
