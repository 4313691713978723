"""Random streams: each use of random numbers in a run has its own, derived from the run's seed.

No two uses share a stream. More frequent evaluation, or other seeds in the same process, therefore change no number of
a training run.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
import torch


def stream_seed(seed: int, purpose: str, *index: int) -> int:
    """A 32-bit seed for one `purpose` in a run, for example its k-th episode."""
    return int(np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *index]).generate_state(1)[0])


class TorchStream:
    """A stream of torch's random numbers: inside `with stream:` all numbers are drawn from it."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        outer = self._read()
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed every GPU
        if self._cuda:
            with torch.cuda.device(self._cuda):
                torch.cuda.manual_seed(seed)
        self._own = self._read()
        self._write(outer)
        self._outer = outer

    def __enter__(self) -> None:
        self._outer = self._read()
        self._write(self._own)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._own = self._read()
        self._write(self._outer)

    def state(self) -> dict[str, torch.Tensor]:
        """The state of the stream, outside `with stream:`."""
        cpu, cuda = self._own
        return {"cpu": cpu} if cuda is None else {"cpu": cpu, "cuda": cuda}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from `state`. The part for a kind of device that it does not contain stays as it is."""
        self._own = state["cpu"], state.get("cuda", self._own[1]) if self._cuda else None

    def _read(self) -> tuple[Any, Any]:
        return torch.get_rng_state(), torch.cuda.get_rng_state(self._cuda) if self._cuda else None

    def _write(self, state: tuple[Any, Any]) -> None:
        torch.set_rng_state(state[0])
        if self._cuda:
            torch.cuda.set_rng_state(state[1], self._cuda)
