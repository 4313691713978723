"""Lengths of time."""

from __future__ import annotations

import pytest

from flowbench.common import duration
from flowbench.common.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds", "told"),
    [
        ("3600", 3600, "1 h"),
        ("2h", 7200, "2 h"),
        ("90m", 5400, "90 min"),
        ("90 min", 5400, "90 min"),
        ("1.5h", 5400, "90 min"),
        ("45s", 45, "45 s"),
        ("1d", 86400, "24 h"),
        ("61", 61, "61 s"),
    ],
)
def test_durations_are_parsed_and_printed(text: str, seconds: float, told: str) -> None:
    assert duration.parse("--timeout", text) == seconds
    assert duration.describe(seconds) == told


@pytest.mark.parametrize("text", ["", "0", "-3", "2x", "h", "1e3", "2h30m", "inf", "nan", "0.5", "9" * 30])
def test_invalid_duration_is_rejected(text: str) -> None:
    with pytest.raises(UsageError, match="--timeout"):
        duration.parse("--timeout", text)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "-:--"), (0, "0:00"), (5.9, "0:05"), (65, "1:05"), (599, "9:59"), (3599, "59:59"), (3600, "1:00:00"),
     (7385, "2:03:05"), (100 * 3600, "100:00:00")],
)  # fmt: skip
def test_a_clock(seconds: float | None, shown: str) -> None:
    assert duration.clock(seconds) == shown
