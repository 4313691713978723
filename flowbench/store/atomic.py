"""Writing files so that they are complete whenever the machine stops."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from flowbench.common.errors import UsageError, name_file


def make_writable(option: str, folder: Path) -> None:
    """Create the folder that an option names if it does not exist. Raises UsageError if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{option} {str(folder)!r} cannot be created: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{option} {str(folder)!r} cannot be written to")


def write_and_sync(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on disk."""
    with name_file(path), path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def create(path: Path, content: bytes) -> None:
    """Write a file completely or not at all, unless it exists; never overwrite the file of another process.

    This does not wait for the disk, which would take minutes for thousands of files; use it for replaceable content.
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
    """Replace a file in one step: whenever the machine stops, it has its complete old or new content."""
    scratch = path.with_name(f"{path.name}.new")
    try:
        write_and_sync(scratch, content)
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)  # on a full disk it would occupy the last free space
        raise
