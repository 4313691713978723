"""A user's mistake, how to name the choice that was probably meant, and any error in one line."""

from __future__ import annotations

import difflib
import errno
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class UsageError(ValueError):
    """A mistake in what was asked for: one line that names the bad value and the valid choices."""


def unknown(kind: str, value: str, choices: Iterable[str]) -> UsageError:
    """The error for a name that is none of `choices`, with the nearest one suggested."""
    known = list(choices)
    by_lower_case = {name.lower(): name for name in known}
    near = difflib.get_close_matches(value.lower(), by_lower_case, n=1)
    hint = f"; did you mean {by_lower_case[near[0]]!r}?" if near else ""
    return UsageError(f"unknown {kind} {value!r}{hint} (choices: {', '.join(known) or 'none'})")


def one_of(kind: str, value: str, choices: Iterable[str]) -> str:
    """The value. Raises UsageError where it is none of the choices."""
    choices = list(choices)
    if value not in choices:
        raise unknown(kind, value, choices)
    return value


def line(error: BaseException) -> str:
    """An exception in one line, its type first."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


def tells_divergence(said: str) -> bool:
    """Whether what a record says of an error (`line`) is that a loss or an action was no number any more."""
    return said.startswith(FloatingPointError.__name__)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Has an OSError within name the file it came of, which one of a write, such as of a full disk, does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


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
