"""Durations: read from text, and written as text."""

from __future__ import annotations

import math
import re

from flowbench.common.errors import UsageError

UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse(option: str, text: str) -> float:
    """The seconds in a text such as 90m, 1.5h or 3600. Raises UsageError, which names the option."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip())
    seconds = float(match[1]) * UNITS.get(match[2] or "s", math.nan) if match else math.nan
    if not 1 <= seconds <= 1e9:
        raise UsageError(f"{option} {text!r} is not a time of at least one second; write 3600, 90m, 2h or 1d")
    return seconds


def describe(seconds: float) -> str:
    """Seconds in the largest unit that leaves no fraction: "2 h", "90 min", "45 s"."""
    for unit in ("h", "min"):
        if seconds % UNITS[unit] == 0:
            return f"{seconds / UNITS[unit]:g} {unit}"
    return f"{seconds:g} s"


def clock(seconds: float | None) -> str:
    """Seconds as 4:05 or 2:03:05; "-:--" if unknown."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
