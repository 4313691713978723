"""Where the wall-clock time of a run goes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Wall-clock seconds by what they were spent on.

    What a GPU is given to do counts where the loop waits for it: an update there shows under "act", whose result the
    environments need.
    """

    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("environment", "act", "replay", "update", "evaluation", "other"), 0.0)
    )
    started: float = field(default_factory=time.perf_counter)

    def restore(self, split: Mapping[str, float]) -> None:
        """Go on from what `split` was."""
        self.seconds = {name: seconds for name, seconds in split.items() if name != "total"}
        self.started = time.perf_counter() - split["total"]

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - start

    @property
    def total(self) -> float:
        return time.perf_counter() - self.started

    def split(self) -> dict[str, float]:
        """Seconds spent on each thing, what is left over being "other", and their total."""
        total = self.total
        named = {k: v for k, v in self.seconds.items() if k != "other"}
        return {**named, "other": total - sum(named.values()), "total": total}
