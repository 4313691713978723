"""Exclusive access to a run: the process that trains it holds its lock and its lease.

The lock works between processes of one host: the system releases it when the process that holds it ends for any reason.
The lease works between hosts that share the folder, on file systems that may not support locks.
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
ATTEMPTS, PAUSE = 5, 0.05  # checking whether a lock is held acquires a shared lock for an instant


class Busy(RuntimeError):
    """Another process trains the run."""


@dataclass(frozen=True)
class Held:
    """Access to a run: the file descriptor of the lock, which a child process may inherit, and the lease."""

    descriptor: int
    lease: Lease


@contextmanager
def hold(folder: Path, abandoned: Collection[Path] = ()) -> Iterator[Held]:
    """Hold the lock and the lease of a run's folder; leases of other hosts in `abandoned` are taken over.

    Raises Busy if another process holds one of the two.
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
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # also if a process that has inherited the lock still runs
    finally:
        os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Whether a process of this or another host trains the run."""
    return _is_locked(folder) or lease.is_live(folder)


def _is_locked(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / NAME, os.O_RDONLY)
    except OSError:  # never locked, or not readable for this user
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
