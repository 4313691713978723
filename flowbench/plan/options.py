"""How to run a grid: the options of `flowbench run`, without those that define its cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RunOptions:
    """The parsed options of `flowbench run`, passed as one object to every function that needs one of them."""

    # Where to train, and how fast
    device: str = "auto"
    gpus: str | None = None  # "all" or "0,1"; None: all
    per_gpu: int | Literal["auto"] | None = None  # number of groups that share a GPU
    jobs: int | None = None  # groups that train concurrently
    threads: int | None = None  # per group
    stack: int | None = None  # seeds trained as one batched computation
    precision: str = "auto"

    # What to keep
    checkpoint_every: int | None = None  # steps; None: at each evaluation
    keep_checkpoints: bool = False
    keep_weights: bool = False
    log: tuple[str, ...] = ()  # loggers that also receive the rows

    # What to run
    dry_run: bool = False
    calibrate: bool = False
    force: bool = False  # train everything from the start, including finished cells
    any_code: bool = False  # accept runs that the algorithm was edited after
    fail_fast: bool = False
    retries: int = 0  # additional attempts after a fault of the machine
    timeout: float | None = None  # seconds per attempt
    shard: tuple[int, int] | None = None  # (2, 8): part 2 of 8
    auto: int | None = None  # maximum number of seeds; they are added until every comparison is decided
    quiet: bool = False
