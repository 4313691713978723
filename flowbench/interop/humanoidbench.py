"""HumanoidBench's repository (github.com/carlosferrazza/humanoid-bench): JSON, task -> method -> seed_X -> curve.

A curve is `{"million_steps": [...], "return": [...]}`. Task names lack the robot (`walk`). In the paper's main results
it is the robot with hands, whose tasks differ from those of h1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flowbench.common.errors import UsageError
from flowbench.interop.curve import Point, text, whole

SUFFIX = ".json"


def read(path: Path) -> Iterator[Point]:
    """The points of a file. Raises UsageError naming the file and the keys."""
    try:
        tasks = json.loads(text(path), parse_int=float)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    for task, methods in _mapping(tasks, path).items():
        for method, seeds in _mapping(methods, path, task).items():
            for seed, curve in _mapping(seeds, path, task, method).items():
                keys = (task, method, seed)
                number = re.fullmatch(r"seed_(\d{1,15})", seed)
                if not number:
                    raise _invalid("seed_ and a number", seed, path, task, method)
                steps, returns = _numbers(curve, "million_steps", path, *keys), _numbers(curve, "return", path, *keys)
                if len(steps) != len(returns):
                    raise _invalid("as many returns as steps", f"{len(steps)} and {len(returns)}", path, *keys)
                for million, value in zip(steps, returns, strict=True):
                    step = whole(float(round(million * 1e6))) if abs(million) < 1e9 else None
                    if step is None:
                        raise _invalid("a number of steps", million, path, *keys, "million_steps")
                    yield Point(method, task, int(number[1]), step, value)


def _mapping(value: Any, path: Path, *keys: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _invalid("a mapping", type(value).__name__, path, *keys)
    for key in value:
        if any("\ud800" <= character <= "\udfff" for character in key):
            raise _invalid("a name", key, path, *keys)
    return value


def _numbers(curve: Any, axis: str, path: Path, *keys: str) -> list[float]:
    values = _mapping(curve, path, *keys).get(axis)
    if not isinstance(values, list) or not all(isinstance(value, float) for value in values):
        raise _invalid(f"a list of numbers {axis!r}", values, path, *keys)
    return values


def _invalid(expected: str, value: object, path: Path, *keys: str) -> UsageError:
    return UsageError(f"{': '.join([str(path), *keys])}: expected {expected}, got {repr(value)[:60]}")
