"""HumanoidBench's repository (github.com/carlosferrazza/humanoid-bench): JSON, task -> method -> seed_X -> curve.

A curve is `{"million_steps": [...], "return": [...]}`. Tasks are named without the robot (`walk`), which in the paper's
main results has hands: another task than h1's.
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
AXES = ("million_steps", "return")


def read(path: Path) -> Iterator[Point]:
    """The points of a file. Raises UsageError naming the file and where in it."""
    try:
        tasks = json.loads(text(path))
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}: line {error.lineno}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    for task, methods in _mapping(tasks, path).items():
        for method, seeds in _mapping(methods, path, task).items():
            for seed, curve in _mapping(seeds, path, task, method).items():
                number = re.fullmatch(r"seed_(\d{1,15})", seed)
                if not number:
                    raise _wrong("seed_ and a number", seed, path, task, method)
                axes = [_numbers(curve, axis, path, task, method, seed) for axis in AXES]
                if len(axes[0]) != len(axes[1]):
                    lengths = " and ".join(str(len(axis)) for axis in axes)
                    raise _wrong("as many returns as steps", lengths, path, task, method, seed)
                for million, value in zip(*axes, strict=True):
                    step = whole(float(round(million * 1e6))) if abs(million) < 1e9 else None
                    if step is None:
                        raise _wrong("a number of steps", million, path, task, method, seed, AXES[0])
                    yield Point(method, task, int(number[1]), step, value)


def _mapping(value: Any, path: Path, *keys: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong("a mapping", type(value).__name__, path, *keys)
    for key in value:
        if any("\ud800" <= character <= "\udfff" for character in key):
            raise _wrong("a name", key, path, *keys)
    return value


def _numbers(curve: Any, axis: str, path: Path, *keys: str) -> list[float]:
    values = _mapping(curve, path, *keys).get(axis)
    if not isinstance(values, list):
        raise _wrong(f"a list {axis!r}", values, path, *keys)
    for value in values:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise _wrong("numbers only", value, path, *keys, axis)
    try:
        return [float(value) for value in values]
    except OverflowError as error:
        raise _wrong("numbers that a float can hold", max(values, key=abs), path, *keys, axis) from error


def _wrong(wanted: str, value: object, path: Path, *keys: str) -> UsageError:
    shown = repr(value)
    return UsageError(f"{': '.join([str(path), *keys])}: wants {wanted}, got {shown[:60]}")
