"""Executors: they run worker processes on this machine or on a cluster."""

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
    """Runs worker processes. Its methods are called from several threads."""

    inherits: bool
    """Whether workers inherit locks. Otherwise the locks are released and the workers acquire them."""

    def work(
        self, folders: Sequence[Path], locks: Sequence[int], log: TextIO, on_event: Callable[[dict[str, Any]], None]
    ) -> int:
        """Train the cells in these folders to their end and return the worker's exit code, negative for a signal.

        The worker inherits the file descriptors `locks`. `log` receives what it prints, `on_event` its events. Raises
        RuntimeError if the worker's node was lost.
        """
        ...

    def stop(self, grace: float) -> None:
        """Start no further worker; ask every worker to stop, and kill those that have not after `grace` seconds."""
        ...


@contextmanager
def cluster(engine: str, address: str | None) -> Iterator[Cluster | None]:
    """The cluster that an engine uses; None for this machine. Raises UsageError."""
    if engine not in NAMES:
        raise unknown("engine", engine, NAMES)
    if engine == "local":
        if address is not None:
            raise UsageError(f"--address {address!r} can only be used with --engine ray")
        yield None
        return
    try:
        from flowbench.schedule.executors.ray import Cluster
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UsageError(
            "--engine ray needs Ray, which is not installed; install it with: pip install -e '.[ray]'"
        ) from error
    with Cluster(address) as connected:
        yield connected
