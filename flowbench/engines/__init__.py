"""Where worker processes run: on this machine, or on others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO


class Engine(Protocol):
    """Runs worker processes; its methods are called from several threads."""

    inherits: bool
    """Whether workers inherit locks. If not, theirs are let go of before, and they take them where they run."""

    def work(
        self, folders: Sequence[Path], locks: Sequence[int], log: TextIO, tell: Callable[[dict[str, Any]], None]
    ) -> int:
        """Train the cells in these folders, to the end; a worker's exit status, negative for a signal.

        `locks` are file descriptors that the worker inherits, if there are any, `log` takes what it prints, `tell`
        hears of its events. A place that was lost with its workers is as if they had been killed.
        """
        ...

    def stop(self, grace: float) -> None:
        """Start nothing more; ask every worker to stop, and end it when it has not within `grace` seconds."""
        ...
