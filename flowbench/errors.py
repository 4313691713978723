"""A user's mistake, and how to name the choice that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """A mistake in what was asked for: one line that names the bad value and the valid choices."""


def unknown(kind: str, value: str, choices: Iterable[str]) -> UsageError:
    """The error for a name that is none of `choices`, with the nearest one suggested."""
    known = list(choices)
    by_lower_case = {name.lower(): name for name in known}
    near = difflib.get_close_matches(value.lower(), by_lower_case, n=1)
    hint = f"; did you mean {by_lower_case[near[0]]!r}?" if near else ""
    return UsageError(f"unknown {kind} {value!r}{hint} (choices: {', '.join(known) or 'none'})")
