"""Writing files so that a machine that stops leaves them whole."""

from __future__ import annotations

import os
from pathlib import Path


def settle(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, content: bytes) -> None:
    """Replace a file in one step: whenever the machine stops, it is whole, or what it was before."""
    scratch = path.with_name(f"{path.name}.new")
    settle(scratch, content)
    scratch.replace(path)
