"""Who trains a run holds its lock; the system lets go of it when that process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "run.lock"
ATTEMPTS, PAUSE = 5, 0.05  # a look at who holds a lock takes a share of it for an instant


class Busy(RuntimeError):
    """Another process trains this run."""


@contextmanager
def hold(folder: Path) -> Iterator[int]:
    """Hold the lock of a run's folder; the file descriptor it is held by, which a child process may inherit.

    Raises Busy when another process holds it.
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
        yield descriptor
    finally:
        os.close(descriptor)  # a child that inherited it goes on holding the lock


def is_held(folder: Path) -> bool:
    """Whether some process holds the lock of a run's folder."""
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
