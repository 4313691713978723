"""Where worker processes run: on this machine, or on others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO


class Engine(Protocol):
    """Runs worker processes; its methods are called from several threads."""

    def work(
        self, folders: Sequence[Path], locks: Sequence[int], log: TextIO, tell: Callable[[dict[str, Any]], None]
    ) -> int:
        """Train the cells in these folders, to the end; a worker's exit status, negative for a signal.

        `locks` are file descriptors that the worker inherits, `log` takes what it prints, `tell` hears of its events.
        """
        ...

    def stop(self, grace: float) -> None:
        """Start nothing more; ask every worker to stop, and end it when it has not within `grace` seconds."""
        ...
