"""The device, precision and number of threads of a measurement, and a description of machine and software."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import torch

from flowbench.common import system
from flowbench.common.errors import UsageError, one_of
from flowbench.common.system import DEVICES, PRECISIONS
from flowbench.learners.placement import Placement


@dataclass(frozen=True)
class Setting:
    """What all measurements of one report have in common."""

    device: torch.device
    precision: str  # of matrix products: float32, tf32 or bfloat16
    threads: int

    @staticmethod
    def choose(device: str, precision: str, threads: int | None) -> Setting:
        """From the command line's options; "auto" chooses as `flowbench run` does. Raises UsageError."""
        one_of("device", device, DEVICES)
        one_of("precision", precision, PRECISIONS)
        cuda = torch.cuda.is_available()
        if device == "cuda" and not cuda:
            raise UsageError("--device cuda: there is no CUDA device here; use cpu or auto")
        chosen = torch.device("cuda" if cuda and device != "cpu" else "cpu")
        if precision == "tf32" and chosen.type == "cpu":
            raise UsageError("--precision tf32 needs a GPU; use float32 or auto")
        if precision == "auto":
            precision = "tf32" if chosen.type == "cuda" else "float32"
        return Setting(chosen, precision, threads or system.cores())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Set torch's threads and precision, and restore them at the end."""
        threads, tf32 = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
        torch.set_num_threads(self.threads)
        Placement(self.device, precision=self.precision).apply()
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.backends.cuda.matmul.allow_tf32 = tf32

    def header(self) -> dict[str, Any]:
        """The machine, the versions and the date."""
        return {
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "machine": {
                "cpu": system.cpu_model(),
                "cpu_generation": system.cpu_generation(),
                "cores": system.cores(),
                "threads": self.threads,
                "gpu": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None,
            },
            "versions": system.versions(),
            "device": self.device.type,
            "precision": self.precision,
        }
