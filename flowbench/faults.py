"""Faults of the machine, not of what runs on it: another attempt may be spared them."""

from __future__ import annotations

import errno
import signal

# A disk that is full or over its quota, one that cannot be reached, a machine short of memory, processes or files.
NAMES = "ENOSPC EDQUOT EIO ESTALE ETIMEDOUT EREMOTEIO EHOSTDOWN EHOSTUNREACH ENOMEM EAGAIN EMFILE ENFILE"
ERRNOS = frozenset(getattr(errno, name) for name in NAMES.split() if hasattr(errno, name))


class Killed(RuntimeError):
    """A process was killed by a signal."""


def is_transient(error: BaseException) -> bool:
    """Whether an exception, or what caused it, is a fault of the machine."""
    if isinstance(error, (MemoryError, Killed)) or (isinstance(error, OSError) and error.errno in ERRNOS):
        return True
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):  # torch's, which is not imported here
        return True
    if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error):  # torch's, of main memory
        return True
    return error.__cause__ is not None and is_transient(error.__cause__)


def signal_name(number: int) -> str:
    """``SIGKILL``; a real-time signal has no name and is ``signal 40``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
