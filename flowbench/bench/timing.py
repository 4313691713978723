"""Timing in rounds: each round measures every call once, so that a machine that slows down slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

ROUNDS = 5
BLOCK_SECONDS = 0.002  # calls are timed in blocks of at least this length, so that reading the clock costs nothing
WARM_UP = 5  # calls on a GPU: a learner runs three times and captures its CUDA graph in the fourth


class Timed:
    """A function that is called repeatedly, and how long a call takes."""

    def __init__(self, call: Callable[[], object], device: torch.device, units: int = 1, seconds: float = 1.0) -> None:
        """One call does `units` units of work. It is timed for `seconds` in all rounds together, and at least once."""
        self._call, self._units, self._budget = call, units, seconds
        self._spent = 0.0
        self._cuda = device.type == "cuda"
        self._block = 1  # calls between two readings of the clock
        self.rounds: list[float] = []  # seconds per unit, the median of each round

    @property
    def seconds(self) -> float:
        """Seconds per unit: the median of the rounds."""
        return median(self.rounds)

    def warm_up(self) -> None:
        """Call often enough that nothing is set up later, and choose the number of calls per block."""
        for _ in range(WARM_UP if self._cuda else 1):
            self._call()
        self._wait()
        once = self._time(1)
        self._block = max(1, round(BLOCK_SECONDS / max(once, 1e-7)))

    def measure(self, share: float) -> None:
        """Time one round, until this share of the budget is used; skip it if slow calls have used more already."""
        allowed = share * self._budget
        if self.rounds and self._spent >= allowed:
            return
        blocks: list[float] = []
        while not blocks or self._spent < allowed:
            blocks.append(self._time(self._block))
            self._spent += blocks[-1]
        self.rounds.append(median(blocks) / (self._block * self._units))

    def _time(self, calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            self._call()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()


def in_rounds(timed: Sequence[Timed], rounds: int = ROUNDS) -> None:
    """Time all of them, one after the other, `rounds` times."""
    for each in timed:
        each.warm_up()
    for number in range(1, rounds + 1):
        for each in timed:
            each.measure(number / rounds)
