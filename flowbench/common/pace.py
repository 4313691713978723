"""Training speed and the time left: the estimate that the preview, the progress bars and `flowbench watch` share."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

DECAY = 0.95  # factor on all earlier observations at each new one, so that about the last twenty count


class Pace:
    """Seconds per step of each algorithm on each task, from the most recent observations."""

    def __init__(self) -> None:
        # Seconds and steps decay separately, so that the time of evaluations is included.
        self._observed: dict[tuple[str, ...], tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))

    def observe(self, task: str, algo: str, steps: float, seconds: float) -> None:
        """Record that an algorithm took `seconds` for `steps` on a task."""
        if steps > 0 and 0 < seconds < math.inf:
            for key in ((task, algo), (algo,), ()):
                before, taken = self._observed[key]
                self._observed[key] = DECAY * before + seconds, DECAY * taken + steps

    def seconds(self, task: str, algo: str, steps: float) -> float | None:
        """Seconds for `steps`, from other tasks or algorithms if these were not observed; None without observations."""
        for key in ((task, algo), (algo,), ()):
            if key in self._observed:
                seconds, taken = self._observed[key]
                return steps * seconds / taken
        return None


def time_left(running: Sequence[float], waiting: Iterable[float], slots: int) -> float:
    """Seconds until the last group ends: each waiting group starts, in order, when one of the slots becomes free.

    `running` holds the seconds that each running group still needs, `waiting` the seconds of each waiting group.
    """
    free = [*running, *[0.0] * (slots - len(running))]
    heapq.heapify(free)
    for seconds in waiting:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free, default=0.0)
