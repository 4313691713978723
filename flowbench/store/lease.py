"""Leases: which machine trains a run, where several share its folder. The lock, which needs no waiting, decides on one.

    <run>/lease/<host>.<token>    "<pid> <beat>"

Who trains counts the beat up every `BEAT` seconds. A machine's identity is its name and the id of its boot, so that a
lease of this host is one that the lock speaks of. That of another host is taken over once its file was seen not to
change for `STALE` seconds, which the taker measures by its own clock: clocks of two machines are never compared.

A lease is made by renaming a folder that holds the file into place, which fails where there is one with a file in it.
It is taken over by removing the file by its name, which one of several takers can do and which harms no lease but that
one, and by making one's own. Who finds its file gone has lost the lease.
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
LOOK = 1.0  # seconds between two looks at another host's lease
STALE = 60.0  # seconds without a beat after which a lease is taken over
BOOT = Path("/proc/sys/kernel/random/boot_id")


class Lost(Exception):
    """Another host has taken this lease over."""


def host() -> str:
    """The identity of this machine, as it was started last."""
    boot = BOOT.read_text(encoding="ascii")[:8] if BOOT.exists() else "0"
    return f"{re.sub(r'[^A-Za-z0-9-]', '_', socket.gethostname())}-{boot}"


@dataclass
class Lease:
    """A lease that this host holds."""

    path: Path
    _beats: int = field(default=0)

    def check(self) -> None:
        """Raise Lost when the lease is no longer held."""
        os.close(self._open(os.O_RDONLY))  # over a network only opening a file asks its server

    def is_held(self) -> bool:
        """Whether the lease is still held."""
        try:
            self.check()
        except Lost:
            return False
        return True

    def beat(self) -> None:
        """Say that the run is still being trained. Raises Lost."""
        self._beats += 1
        descriptor = self._open(os.O_WRONLY)
        try:
            os.pwrite(descriptor, _content(self._beats), 0)
        finally:
            os.close(descriptor)

    def release(self) -> None:
        """Let go; nothing happens to a lease that was lost."""
        _remove(self.path)

    def _open(self, how: int) -> int:
        """The file, which is never made anew: one that is gone was taken away."""
        try:
            return os.open(self.path, how)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
                raise
            said = f"another host has taken {self.path.parents[1]} over, having seen no beat for {STALE:g} s"
            raise Lost(f"{said}; nothing more is written here") from None


def take(run: Path, abandoned: Collection[Path] = ()) -> Lease | None:
    """Lease a run's folder, whose lock the caller holds; None when another host has it.

    What is not that of another host is left over from a dead process, and what is `abandoned` is taken over.
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
        # There is one; or its new holder has swept this folder away.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
        return None
    for left in run.glob(f"{FOLDER}-*"):  # by takers that were killed, or that come too late
        shutil.rmtree(left, ignore_errors=True)
    return Lease(run / FOLDER / name)


def adopt(run: Path) -> Lease:
    """The lease of a run whose lock this process has inherited. Raises Lost when this host holds none."""
    found = _find(run)
    if found is None or not _is_ours(found):
        raise Lost(f"another host has taken {run} over; nothing is written here")
    return Lease(found)


def abandoned(runs: Sequence[Path], wait: Callable[[float], object] = time.sleep) -> set[Path]:
    """Leases of other hosts that nobody beats, which takes `STALE` seconds of watching if there are any.

    `wait` is given seconds to wait; when it returns something true, no more is waited and none is abandoned.
    """
    watched = {path: _read(path) for path in map(_find, runs) if path and not _is_ours(path)}
    quiet, last = 0.0, time.monotonic()
    while watched and quiet < STALE:
        if wait(min(LOOK, STALE)):
            return set()
        watched = {path: content for path, content in watched.items() if content is not None and _read(path) == content}
        now = time.monotonic()
        # A look that took long, as on a file system that hung, says nothing of what a holder could do in that time.
        quiet += min(now - last, 2 * LOOK)
        last = now
    return set(watched)


def is_live(run: Path) -> bool:
    """Whether another host has leased a run and beats, judged in an instant: for what is shown and planned.

    A beat is recent when its file's time is within `STALE` seconds of a scratch file's that is made now beside it:
    both are times of the one file system. Where none can be made, a lease counts as live.
    """
    found = _find(run)
    if found is None or _is_ours(found):
        return False
    try:
        beaten = found.stat().st_mtime
    except OSError:  # released meanwhile
        return False
    try:
        with tempfile.TemporaryFile(dir=run) as scratch:
            os.utime(scratch.fileno())
            now = os.fstat(scratch.fileno()).st_mtime
    except OSError:
        return True
    return abs(now - beaten) < STALE


@contextmanager
def beating(leases: Sequence[Lease], lost: Callable[[Lost], None]) -> Iterator[None]:
    """Beat leases in a thread of its own, which calls `lost` when one is lost."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT):
            try:
                for lease in leases:
                    with suppress(OSError):  # a full or hanging disk; the next beat may come through
                        lease.beat()
            except Lost as error:
                lost(error)
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
        if not stat.S_ISDIR(folder.lstat().st_mode):  # a link is not followed
            return None
        # A network file system shows what was removed while open under a name that begins with a dot.
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return None
    return folder / min(names) if names else None


def _is_ours(path: Path) -> bool:
    return path.name.rpartition(".")[0] == host()


def _read(path: Path) -> bytes | None:
    """What a lease's file holds; None when it is gone."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def _content(beats: int) -> bytes:
    return f"{os.getpid():>10} {beats:>10}\n".encode()  # always as long, to be written over in place


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
    with suppress(OSError):  # gone, or another's by now
        path.parent.rmdir()
