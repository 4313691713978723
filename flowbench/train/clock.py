"""Measures what a run spends its wall-clock time on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Wall-clock seconds by activity.

    GPU work counts where the loop waits for it. An update on a GPU therefore counts as "act", because the environments
    need the actions.
    """

    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("environment", "act", "replay", "update", "evaluation", "other"), 0.0)
    )
    started: float = field(default_factory=time.perf_counter)

    def restore(self, split: Mapping[str, float]) -> None:
        """Continue from what `split` returned."""
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
        """Seconds of each activity, the remaining time as "other", and the total."""
        total = self.total
        named = {k: v for k, v in self.seconds.items() if k != "other"}
        return {**named, "other": total - sum(named.values()), "total": total}
