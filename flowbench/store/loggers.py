"""Copies of a run's rows in TensorBoard or Weights & Biases, to watch a run there; the CSV files stay authoritative."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from flowbench.common.errors import UsageError, unknown
from flowbench.store.records import RunRecord

TENSORBOARD = "tensorboard"  # the folder in a run's


class Logger(Protocol):
    """A service that rows are copied to."""

    def append(self, table: str, row: Mapping[str, float]) -> None:
        """A row of "train" or "evals"; its "step" is the environment step."""
        ...

    def close(self) -> None:
        """Write pending rows."""
        ...


class TensorBoard:
    """Event files in the run's folder: `tensorboard --logdir results`."""

    def __init__(self, folder: Path, run: RunRecord, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Rows that an interrupted attempt wrote after the step of the checkpoint are hidden.
        self._writer: Any = SummaryWriter(str(folder / TENSORBOARD), purge_step=step + 1 if step else None)

    def append(self, table: str, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(f"{table}/{name}", value, int(row["step"]))

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A run in the project "flowbench", grouped by suite, task and algorithm; wandb's own settings apply."""

    def __init__(self, folder: Path, run: RunRecord, step: int) -> None:
        import wandb

        own = "/".join([*folder.parts[-5:], str(run.started)])
        suite, task, algo = run.suite.name, run.task.name, run.algo.label
        self._run: Any = wandb.init(
            project="flowbench",
            group=f"{suite}/{task}/{algo}",
            name=f"{algo} {task} seed {run.seed}",
            config={**run.config, "suite": suite, "task": task, "algo": algo, "seed": run.seed},
            dir=str(folder),
            reinit="create_new",
            id=hashlib.sha256(own.encode()).hexdigest()[:16],
            resume="allow" if step else None,
        )

    def append(self, table: str, row: Mapping[str, float]) -> None:
        self._run.log(
            {f"{table}/{name}": value for name, value in row.items() if name != "step"}, step=int(row["step"])
        )

    def close(self) -> None:
        self._run.finish()


LOGGERS: dict[str, type[TensorBoard] | type[Wandb]] = {"tensorboard": TensorBoard, "wandb": Wandb}


def check(names: Sequence[str]) -> None:
    """Raise UsageError for a logger that is unknown or not installed."""
    for name in names:
        if name not in LOGGERS:
            raise unknown("log", name, LOGGERS)
        if find_spec(name) is None:
            raise UsageError(f"--log {name}: {name} is not installed; install it with: pip install -e '.[log]'")


class Loggers:
    """The loggers of one run. One that fails is dropped with a line in the log: the CSV files stay authoritative."""

    def __init__(self, names: Sequence[str], folder: Path, run: RunRecord, step: int = 0) -> None:
        """`step` is that of the checkpoint that the run resumes from, 0 for a new run."""
        self._loggers: dict[str, Logger] = {}
        for name in names:
            self._try(name, partial(self._start, name, folder, run, step))

    def append(self, table: str, row: Mapping[str, float]) -> None:
        """Copy a row to every logger."""
        for name, logger in list(self._loggers.items()):
            self._try(name, partial(logger.append, table, row))

    def close(self) -> None:
        """Close every logger."""
        for name, logger in list(self._loggers.items()):
            self._try(name, logger.close)

    def _start(self, name: str, folder: Path, run: RunRecord, step: int) -> None:
        self._loggers[name] = LOGGERS[name](folder, run, step)

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # a network that is down, a service that refuses
            self._loggers.pop(name, None)
            print(f"--log {name} is dropped: {type(error).__name__}: {error}", file=sys.stderr)
