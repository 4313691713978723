"""Whether values are what a conversion to a number would take them for."""

from __future__ import annotations

from typing import Any

import numpy as np


def is_real(value: Any) -> bool:
    """Whether a value consists of booleans, integers or floats: of no text, objects or complex numbers."""
    return np.asarray(value).dtype.kind in "biuf"


def is_flag(value: Any) -> bool:
    """Whether a value is true or false, perhaps as a number or in an array of one element."""
    return is_real(value) and np.size(value) == 1 and np.asarray(value).item() in (0, 1)
