"""Errors: a user's mistake with a suggestion, an exception in one line, and faults of the machine."""

from __future__ import annotations

import difflib
import errno
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class UsageError(ValueError):
    """A user's mistake. The message is one line that names the bad value and the valid choices."""


def unknown(kind: str, value: str, choices: Iterable[str]) -> UsageError:
    """The error for a name that is not one of `choices`; it suggests the nearest one."""
    known = list(choices)
    by_lower_case = {name.lower(): name for name in known}
    near = difflib.get_close_matches(value.lower(), by_lower_case, n=1)
    hint = f"; did you mean {by_lower_case[near[0]]!r}?" if near else ""
    return UsageError(f"unknown {kind} {value!r}{hint} (choices: {', '.join(known) or 'none'})")


def one_of(kind: str, value: str, choices: Iterable[str]) -> str:
    """Return `value`. Raises UsageError if it is not one of the choices."""
    choices = list(choices)
    if value not in choices:
        raise unknown(kind, value, choices)
    return value


def describe(error: BaseException) -> str:
    """An exception in one line that begins with its type."""
    return printable(" ".join(f"{type(error).__name__}: {error}".split())).removesuffix(":")


def printable(text: str) -> str:
    """``text`` in one line, with control characters escaped: a terminal would obey them."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else " " if each.isspace() else each.encode("unicode_escape").decode()
        for each in text
    )


def is_divergence(description: str) -> bool:
    """Whether an error, in the words of `describe`, means that a loss or an action became NaN or infinite."""
    return description.startswith(FloatingPointError.__name__)


@contextmanager
def name_file(path: Path) -> Iterator[None]:
    """Set the file name of an OSError raised in the block. Python sets none if a write fails, as on a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


# A disk is full, over its quota or cannot be reached; the machine has no memory, processes or file handles left.
NAMES = "ENOSPC EDQUOT EIO ESTALE ETIMEDOUT EREMOTEIO EHOSTDOWN EHOSTUNREACH ENOMEM EAGAIN EMFILE ENFILE"
ERRNOS = frozenset(getattr(errno, name) for name in NAMES.split() if hasattr(errno, name))


class Killed(RuntimeError):
    """A process was killed by a signal."""


def is_transient(error: BaseException) -> bool:
    """Whether an exception or its cause is a fault of the machine, so that another attempt may succeed."""
    if isinstance(error, (MemoryError, Killed)) or (isinstance(error, OSError) and error.errno in ERRNOS):
        return True
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):  # of torch, not imported here
        return True
    if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error):  # torch, out of main memory
        return True
    return error.__cause__ is not None and is_transient(error.__cause__)


def signal_name(number: int) -> str:
    """``SIGKILL``, or ``signal 40`` for a real-time signal, which has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
