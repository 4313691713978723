"""How a grid is to be run: the options of `flowbench run` that do not say which cells it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RunOptions:
    """The options of `flowbench run`, parsed; passed whole from the command line to whatever needs one of them."""

    # Where, and how fast
    device: str = "auto"
    gpus: str | None = None  # "all" or "0,1"; None: all
    per_gpu: int | Literal["auto"] | None = None  # groups that share a GPU
    jobs: int | None = None  # groups at the same time
    threads: int | None = None  # of each group
    stack: int | None = None  # seeds trained as one batched computation
    precision: str = "auto"

    # What is kept
    checkpoint_every: int | None = None  # steps; None: with each evaluation
    keep_checkpoints: bool = False
    keep_weights: bool = False
    log: tuple[str, ...] = ()  # loggers that rows are copied to

    # What is run
    dry_run: bool = False
    calibrate: bool = False
    force: bool = False  # run finished cells again, and all from the start
    fail_fast: bool = False
    retries: int = 0  # further attempts after a fault of the machine
    timeout: float | None = None  # seconds, of each attempt
    shard: tuple[int, int] | None = None  # (2, 8): the second of eight parts
    auto: int | None = None  # seeds are added until a comparison is decided, or there are this many
    quiet: bool = False
