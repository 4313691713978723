"""Who trains a run holds its lock, and a lease of it.

The lock decides on one machine: the system lets go of it when the process that holds it ends, however it ends. Of
machines that share the folder, and perhaps no locks, the lease decides.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flowbench.store import lease
from flowbench.store.lease import Lease

NAME = "run.lock"
ATTEMPTS, PAUSE = 5, 0.05  # a look at who holds a lock takes a share of it for an instant


class Busy(RuntimeError):
    """Another process trains this run."""


@dataclass(frozen=True)
class Held:
    """A run that this process may train: the lock's file descriptor, which a child process may inherit, and a lease."""

    descriptor: int
    lease: Lease


@contextmanager
def hold(folder: Path, abandoned: Collection[Path] = ()) -> Iterator[Held]:
    """Hold the lock and the lease of a run's folder; leases of other hosts that are `abandoned` are taken over.

    Raises Busy when another process holds one of the two.
    """
    descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        for attempt in range(ATTEMPTS):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == ATTEMPTS - 1:
                    raise Busy(f"another process trains {folder}") from None
                time.sleep(PAUSE)
        leased = lease.take(folder, abandoned)
        if leased is None:
            raise Busy(f"another host trains {folder}")
        try:
            yield Held(descriptor, leased)
        finally:
            leased.release()
    finally:
        os.close(descriptor)  # a child that inherited it goes on holding the lock


def is_held(folder: Path) -> bool:
    """Whether some process, of this or another host, trains a run."""
    return _is_locked(folder) or lease.is_live(folder)


def _is_locked(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / NAME, os.O_RDONLY)
    except OSError:  # never locked, or not ours to look into
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
