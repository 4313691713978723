"""Copies of a run's rows in TensorBoard or Weights & Biases for those who watch there; the CSV files are the record."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from flowbench.common.errors import UsageError, unknown

TENSORBOARD = "tensorboard"  # the folder in a run's


class Mirror(Protocol):
    """Somewhere that rows are copied to."""

    def append(self, table: str, row: Mapping[str, float]) -> None:
        """A row of "train" or "evals"; its "step" is the environment step."""
        ...

    def close(self) -> None:
        """Write what is pending."""
        ...


class TensorBoard:
    """Event files in the run's folder: `tensorboard --logdir results`."""

    def __init__(self, folder: Path, run: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an earlier attempt wrote after the step that this one goes on from is hidden.
        self._writer: Any = SummaryWriter(str(folder / TENSORBOARD), purge_step=step + 1 if step else None)

    def append(self, table: str, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(f"{table}/{name}", value, int(row["step"]))

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A run in the project "flowbench", grouped by suite, task and algorithm; wandb's own settings decide the rest."""

    def __init__(self, folder: Path, run: Mapping[str, Any], step: int) -> None:
        import wandb

        own = "/".join([*folder.parts[-5:], str(run.get("started"))])
        suite, task, algo = run["suite"]["name"], run["task"]["name"], run["algo"]["label"]
        self._run: Any = wandb.init(
            project="flowbench",
            group=f"{suite}/{task}/{algo}",
            name=f"{algo} {task} seed {run['seed']}",
            config={**run["config"], "suite": suite, "task": task, "algo": algo, "seed": run["seed"]},
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


MIRRORS: dict[str, type[TensorBoard] | type[Wandb]] = {"tensorboard": TensorBoard, "wandb": Wandb}


def parse(text: str) -> list[str]:
    """The mirrors named in "tensorboard,wandb". Raises UsageError for an unknown one, or one that is not installed."""
    names = [name.strip() for name in text.split(",")] if text else []
    for name in names:
        if name not in MIRRORS:
            raise unknown("log", name, MIRRORS)
        if find_spec(name) is None:
            raise UsageError(f"--log {name}: {name} is not installed; pip install -e '.[log]' brings it")
    return names


class Mirrors:
    """The mirrors of one run. One that fails is given up with a line in the log: the CSV files are the record."""

    def __init__(self, names: Sequence[str], folder: Path, run: Mapping[str, Any], step: int = 0) -> None:
        """For rows after `step`, where a run goes on from a checkpoint."""
        self._mirrors: dict[str, Mirror] = {}
        for name in names:
            self._try(name, partial(self._start, name, folder, run, step))

    def append(self, table: str, row: Mapping[str, float]) -> None:
        """Copy a row to all of them."""
        for name, mirror in list(self._mirrors.items()):
            self._try(name, partial(mirror.append, table, row))

    def close(self) -> None:
        """Close all of them."""
        for name, mirror in list(self._mirrors.items()):
            self._try(name, mirror.close)

    def _start(self, name: str, folder: Path, run: Mapping[str, Any], step: int) -> None:
        self._mirrors[name] = MIRRORS[name](folder, run, step)

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # a network that is down, a service that says no
            self._mirrors.pop(name, None)
            print(f"--log {name} is given up: {type(error).__name__}: {error}", file=sys.stderr)
