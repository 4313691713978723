"""Texts in the cells of a CSV file, which a spreadsheet must not take for formulas."""

from __future__ import annotations

import re
from typing import Any

from flowbench.common.errors import printable

_FORMULA = re.compile(r"'*[=+\-@]")


def cell(value: Any) -> Any:
    """A value as it is written: a text that begins like a formula gets an apostrophe; other values stay."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if _FORMULA.match(text) else text


def text(cell: str) -> str:
    """The text that was written as this cell, without the apostrophe."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
