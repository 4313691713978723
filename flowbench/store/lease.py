"""Leases: which host trains a run, if several hosts share its folder. On one host the lock decides.

    <run>/lease/<host>.<token>    "<pid> <beat>"

The process that trains increases the beat every `BEAT` seconds. A host is identified by its name and the id of its
boot, so that a lease of this host is one that the lock covers. A lease of another host is taken over when its file has
not changed for `STALE` seconds, measured by the clock of the process that takes over: clocks of two hosts are never
compared.

A lease is acquired by renaming a folder that contains the file; that fails if the target holds a file. It is taken over
by deleting the file by its name, which only one process can do and which cannot delete another lease, and by acquiring
a new lease. A process whose file is gone has lost its lease.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from flowbench.common.errors import name_file

FOLDER = "lease"
BEAT = 5.0  # seconds between two beats
LOOK = 1.0  # seconds between two checks of another host's lease
STALE = 60.0  # seconds without a beat after which a lease is taken over
BOOT = Path("/proc/sys/kernel/random/boot_id")


class Lost(Exception):
    """Another host has taken this lease over."""


def host() -> str:
    """The identity of this host since its last boot."""
    boot = BOOT.read_text(encoding="ascii")[:8] if BOOT.exists() else "0"
    return f"{re.sub(r'[^A-Za-z0-9-]', '_', socket.gethostname())}-{boot}"


@dataclass
class Lease:
    """A lease that this host holds."""

    path: Path
    _beats: int = field(default=0)

    def check(self) -> None:
        """Raise Lost if the lease is no longer held."""
        os.close(self._open(os.O_RDONLY))  # on a network file system only opening a file asks the server

    def is_held(self) -> bool:
        """Whether the lease is still held."""
        try:
            self.check()
        except Lost:
            return False
        return True

    def beat(self) -> None:
        """Signal that the run is still being trained. Raises Lost."""
        self._beats += 1
        descriptor = self._open(os.O_WRONLY)
        try:
            os.pwrite(descriptor, _content(self._beats), 0)
        finally:
            os.close(descriptor)

    def release(self) -> None:
        """Release the lease; a lost one is left alone."""
        _remove(self.path)

    def _open(self, flags: int) -> int:
        """Open the file, never creating it: a file that is gone was deleted by another host."""
        try:
            return os.open(self.path, flags)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
                raise
            reason = f"another host has taken over {self.path.parents[1]} after {STALE:g} s without a beat"
            raise Lost(f"{reason}; nothing more is written here") from None


def take(run: Path, abandoned: Collection[Path] = ()) -> Lease | None:
    """Lease a run's folder, whose lock the caller holds; None if another host holds the lease.

    A lease of this host is left over from a dead process; it and those in `abandoned` are taken over.
    """
    found = _find(run)
    if found and (_is_ours(found) or found in abandoned):
        _remove(found)
    token = secrets.token_hex(8)
    name, scratch = f"{host()}.{token}", run / f"{FOLDER}-{token}"
    try:
        scratch.mkdir()
        with name_file(scratch / name):
            (scratch / name).write_bytes(_content(0))
        scratch.rename(run / FOLDER)
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        # Another lease exists, or its new holder has removed our scratch folder.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
        return None
    for left in run.glob(f"{FOLDER}-*"):  # by processes that were killed, or came too late
        shutil.rmtree(left, ignore_errors=True)
    return Lease(run / FOLDER / name)


def adopt(run: Path) -> Lease:
    """The lease of a run whose lock this process has inherited. Raises Lost if this host holds none."""
    found = _find(run)
    if found is None or not _is_ours(found):
        raise Lost(f"another host has taken over {run}; nothing is written here")
    return Lease(found)


def abandoned(runs: Sequence[Path], wait: Callable[[float], object] = time.sleep) -> set[Path]:
    """The leases of other hosts without a beat. Takes `STALE` seconds if there are leases of other hosts.

    `wait` is called with seconds to wait; if it returns a true value, waiting ends and no lease counts as abandoned.
    """
    watched = {path: _read(path) for path in map(_find, runs) if path and not _is_ours(path)}
    quiet, last = 0.0, time.monotonic()
    while watched and quiet < STALE:
        if wait(min(LOOK, STALE)):
            return set()
        watched = {path: content for path, content in watched.items() if content is not None and _read(path) == content}
        now = time.monotonic()
        # After a check that took long, as on a hanging file system, the holder may not have been able to write either.
        quiet += min(now - last, 2 * LOOK)
        last = now
    return set(watched)


def is_live(run: Path) -> bool:
    """Whether another host holds a lease with a recent beat, without waiting: for displays and planning.

    A beat is recent if its file's time is within `STALE` seconds of that of a scratch file made now in the same folder:
    both are times of the same file system. If no scratch file can be made, the lease counts as live.
    """
    found = _find(run)
    if found is None or _is_ours(found):
        return False
    try:
        beaten = found.stat().st_mtime
    except OSError:  # released in the meantime
        return False
    try:
        with tempfile.TemporaryFile(dir=run) as scratch:
            os.utime(scratch.fileno())
            now = os.fstat(scratch.fileno()).st_mtime
    except OSError:
        return True
    return abs(now - beaten) < STALE


@contextmanager
def beating(leases: Sequence[Lease], on_lost: Callable[[Lost], None]) -> Iterator[None]:
    """Beat leases in a thread, which calls `on_lost` if one is lost."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT):
            try:
                for lease in leases:
                    with suppress(OSError):  # a full or hanging disk; the next beat may succeed
                        lease.beat()
            except Lost as error:
                on_lost(error)
                return

    thread = threading.Thread(target=beat, daemon=True, name="lease")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _find(run: Path) -> Path | None:
    """The file of a run's lease."""
    folder = run / FOLDER
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):  # links are not followed
            return None
        # A network file system shows files that were removed while open under names that begin with a dot.
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return None
    return folder / min(names) if names else None


def _is_ours(path: Path) -> bool:
    return path.name.rpartition(".")[0] == host()


def _read(path: Path) -> bytes | None:
    """The content of a lease's file; None if it is gone."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def _content(beats: int) -> bytes:
    return f"{os.getpid():>10} {beats:>10}\n".encode()  # of constant length, to be overwritten in place


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
    with suppress(OSError):  # already gone, or in use by another lease
        path.parent.rmdir()
