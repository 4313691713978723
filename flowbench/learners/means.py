"""Running means of what losses log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from flowbench.common.tensors import State, flat, under


class Means:
    """Running means of the scalars that S seeds log, on the device until they are read."""

    def __init__(self, seeds: int = 1) -> None:
        self.counts: Counter[str] = Counter()  # how often each name was logged in total
        self._seeds = seeds
        self._sums: dict[str, Tensor] = {}
        self._waiting: dict[str, Tensor] = {}  # values that are not yet in the sums
        self._cleared = [Counter[str]() for _ in range(seeds)]  # the counts when a seed was last cleared

    def log(self, name: str, value: Tensor) -> None:
        """Add one value for each seed: [S], or [] for a single seed."""
        if name not in self._sums:
            dtype = torch.promote_types(value.dtype, torch.float32)
            self._sums[name] = torch.zeros(self._seeds, dtype=dtype, device=value.device)
        if name in self._waiting:
            self.add_up()
        self._waiting[name] = value.reshape(self._seeds)
        self.counts[name] += 1

    def add_up(self) -> None:
        """Add the logged values to their sums, all in one operation. An update ends with it."""
        if self._waiting:
            # In place, because a captured graph keeps writing to these tensors.
            torch._foreach_add_([self._sums[name] for name in self._waiting], list(self._waiting.values()))
            self._waiting = {}

    def drop(self) -> None:
        """Forget the values since the last `add_up`: an update that failed has logged them."""
        self._waiting = {}

    def read(self, index: int = 0) -> dict[str, float]:
        """The means of one seed since its last `clear`, by name."""
        self.add_up()
        since = self._cleared[index]
        names = [name for name in self._sums if self.counts[name] > since[name]]
        if not names:
            return {}
        sums = torch.stack([self._sums[name][index].double() for name in names]).tolist()
        return {name: total / (self.counts[name] - since[name]) for name, total in zip(names, sums, strict=True)}

    def clear(self, index: int = 0) -> None:
        """Reset the means of one seed."""
        self.add_up()
        self._cleared[index] = self.counts.copy()
        for total in self._sums.values():
            total[index] = 0.0

    def state(self, index: int = 0) -> State:
        """The sums and counts of one seed since its last `clear`."""
        self.add_up()
        counts = {name: torch.tensor(self.counts[name] - self._cleared[index][name]) for name in self._sums}
        return flat({"sums": {name: total[index] for name, total in self._sums.items()}, "counts": counts})

    def restore(self, states: Sequence[State], device: torch.device) -> None:
        """Continue from the `state` of every seed, with the sums on `device`."""
        for index in range(len(states)):
            self.clear(index)
        for name in under("sums", states[0]):
            counts = [int(state[f"counts.{name}"]) for state in states]
            sums = torch.stack([state[f"sums.{name}"] for state in states])
            self._sums.setdefault(name, torch.zeros_like(sums, device=device)).copy_(sums)  # in place, as in `add_up`
            self.counts[name] = max(counts)
            for cleared, count in zip(self._cleared, counts, strict=True):
                cleared[name] = max(counts) - count
