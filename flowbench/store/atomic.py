"""Writing files so that a machine that stops leaves them whole."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from flowbench.common.errors import UsageError, name_file


def make_writable(option: str, folder: Path) -> None:
    """Make a folder that an option names where there is none. Raises UsageError where nothing can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{option} {str(folder)!r} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{option} {str(folder)!r} cannot be written to")


def settle(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with name_file(path), path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def create(path: Path, content: bytes) -> None:
    """Write a file where there is none: whole, or not at all, and never over one that somebody else makes meanwhile.

    The disk is not waited for, which would take minutes for thousands of files: it is for what can be made again.
    """
    scratch = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with name_file(scratch):
            scratch.write_bytes(content)
        with suppress(FileExistsError):
            os.link(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def replace(path: Path, content: bytes) -> None:
    """Replace a file in one step: whenever the machine stops, it is whole, or what it was before."""
    scratch = path.with_name(f"{path.name}.new")
    try:
        settle(scratch, content)
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)  # on a full disk it would keep the last room
        raise
