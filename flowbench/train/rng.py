"""Random streams: every use of chance in a run has one of its own, derived from the run's seed.

Because no two uses share a stream, evaluating more often, or training seeds side by side in one process, changes no
number of a training run.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
import torch


def stream_seed(seed: int, purpose: str, *index: int) -> int:
    """A 32-bit seed for one `purpose` of a run, such as its k-th episode."""
    return int(np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *index]).generate_state(1)[0])


class TorchStream:
    """Torch's random numbers of one seed: inside `with stream:` every draw comes from it."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        outer = self._read()
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU, too
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
        """Where the stream is, while it is not being drawn from."""
        cpu, cuda = self._own
        return {"cpu": cpu} if cuda is None else {"cpu": cpu, "cuda": cuda}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from where `state` was; on another kind of device what that kind draws begins anew."""
        self._own = state["cpu"], state.get("cuda", self._own[1]) if self._cuda else None

    def _read(self) -> tuple[Any, Any]:
        return torch.get_rng_state(), torch.cuda.get_rng_state(self._cuda) if self._cuda else None

    def _write(self, state: tuple[Any, Any]) -> None:
        torch.set_rng_state(state[0])
        if self._cuda:
            torch.cuda.set_rng_state(state[1], self._cuda)
