"""What a worker and the scheduler that starts it agree on: exit codes and messages."""

from __future__ import annotations

from flowbench.common import duration

EXIT_FAILED = 1
EXIT_TRANSIENT = 74  # a fault of the machine, which another attempt may not meet
EXIT_BUSY = 75  # another process trains a cell of the group, or has finished it
EXIT_STOPPED = 130


def timed_out(seconds: float) -> str:
    """The error of a cell that reached its time limit."""
    return f"timed out after {duration.describe(seconds)}"
