"""Whole numbers that a user gives, as text or as a number."""

from __future__ import annotations

from flowbench.common.errors import UsageError


def whole(option: str, value: str | float | None, least: int = 1, most: int = 2**53) -> int | None:
    """A whole number from `least` to `most`, also written 1e6 or 1_000_000; None stays None. Raises UsageError."""
    if value is None:
        return None
    try:
        number = -1.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if not (least <= number <= most and number.is_integer()):
        raise UsageError(f"{option} {value!r} is not a whole number of at least {least} and at most {most:,}")
    return int(number)
