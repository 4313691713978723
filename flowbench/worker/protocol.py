"""What a worker process and the scheduler that starts it agree on: exit codes and messages."""

from __future__ import annotations

from flowbench.common import duration

EXIT_FAILED, EXIT_TRANSIENT, EXIT_BUSY, EXIT_STOPPED = 1, 74, 75, 130


def timed_out(seconds: float) -> str:
    """What is said of a cell whose time is up."""
    return f"timed out after {duration.told(seconds)}"
