"""Where worker processes run: on this machine, or on others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from flowbench.common.errors import UsageError, unknown

if TYPE_CHECKING:
    from flowbench.schedule.executors.ray import Cluster

NAMES = ("local", "ray")


class Executor(Protocol):
    """Runs worker processes; its methods are called from several threads."""

    inherits: bool
    """Whether workers inherit locks. If not, theirs are let go of before, and they take them where they run."""

    def work(
        self, folders: Sequence[Path], locks: Sequence[int], log: TextIO, tell: Callable[[dict[str, Any]], None]
    ) -> int:
        """Train the cells in these folders, to the end; a worker's exit status, negative for a signal.

        `locks` are file descriptors that the worker inherits, if there are any, `log` takes what it prints, `tell`
        hears of its events. Raises RuntimeError when the place was lost with its worker.
        """
        ...

    def stop(self, grace: float) -> None:
        """Start nothing more; ask every worker to stop, and end it when it has not within `grace` seconds."""
        ...


@contextmanager
def cluster(engine: str, address: str | None) -> Iterator[Cluster | None]:
    """The cluster that an engine trains on, None for this machine. Raises UsageError."""
    if engine not in NAMES:
        raise unknown("engine", engine, NAMES)
    if engine == "local":
        if address is not None:
            raise UsageError(f"--address {address!r} is for --engine ray")
        yield None
        return
    try:
        from flowbench.schedule.executors.ray import Cluster
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UsageError("--engine ray needs Ray, which is not installed; pip install -e '.[ray]' brings it") from error
    with Cluster(address) as connected:
        yield connected
