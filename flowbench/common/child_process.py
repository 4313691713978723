"""Child processes that end with their parent, raise their exceptions in it, and take microseconds to signal.

Parent and child have one `Link` each: two pipes, for single bytes as signals and for pickled objects. Children are
spawned, not forked, so they share no lock, no open file and no CUDA context with their parent.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import select
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from flowbench.common.errors import Killed, signal_name

_DONE, _FAILED = b".", b"!"
_LOOK = 1.0  # seconds between two looks whether a child that does not signal is alive
_PATIENCE = 2.0  # seconds that a child has to end by itself


class RemoteTraceback(Exception):
    """The traceback of an exception in the child, shown as its cause."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Link:
    """One end of two pipes. `done` here ends a `wait` at the other end."""

    def __init__(self, reader: Connection, writer: Connection) -> None:
        self._reader, self._writer = reader, writer
        # Connection.send_bytes() takes several times as long as the system call.
        self._in, self._out = reader.fileno(), writer.fileno()
        self._signals = select.poll()
        self._signals.register(self._in, select.POLLIN)

    def done(self, byte: bytes = _DONE) -> None:
        """Signal the other end. Raises BrokenPipeError when it is closed."""
        os.write(self._out, byte)

    def wait(self) -> bytes:
        """The next signal; empty when the other end is closed."""
        return os.read(self._in, 1)

    def ready(self, seconds: float) -> bool:
        """Whether a wait would end at once, after waiting for at most so many seconds."""
        return self._in < 0 or bool(self._signals.poll(1000 * seconds))

    def send(self, item: Any) -> None:
        """Send an object. Raises BrokenPipeError when the other end is closed."""
        self._writer.send(item)

    def receive(self) -> Any:
        """The next object. Raises EOFError when the other end is closed."""
        return self._reader.recv()

    def close(self) -> None:
        """Close this end. Waiting or signalling afterwards raises OSError."""
        self._in = self._out = -1  # the numbers may soon belong to other files
        self._reader.close()
        self._writer.close()


class Child:
    """A process that runs `work(link, *args)`, all of which must be picklable."""

    def __init__(self, name: str, work: Callable[..., None], *args: Any, fault: type[RuntimeError]) -> None:
        """`name` is for messages. `fault` is raised when the child dies or its exception cannot be pickled."""
        # Unpickled by `_main`, which can report an error; the spawned process itself could not.
        pickled = pickle.dumps((work, args))
        context = multiprocessing.get_context("spawn")
        reader, childs_writer = context.Pipe(duplex=False)
        childs_reader, writer = context.Pipe(duplex=False)
        self._name, self._fault = name, fault
        self._link = Link(reader, writer)
        self._deadline = 0.0  # until when `close` waits for it, set by `release`
        self._process = context.Process(
            target=_main, args=(childs_reader, childs_writer, pickled), name=name, daemon=True
        )
        try:
            self._process.start()
        finally:
            childs_reader.close()  # otherwise the child's end would stay open when the child ends
            childs_writer.close()

    def signal(self, byte: bytes = _DONE) -> None:
        """Signal the child to continue. `wait` reports a child that has died."""
        with suppress(BrokenPipeError):
            self._link.done(byte)

    def send(self, item: Any) -> None:
        """Send an object. `wait` reports a child that has died."""
        with suppress(BrokenPipeError):
            self._link.send(item)

    def wait(self) -> None:
        """Wait for the child's signal. Raises the child's exception, or `fault` if it is dead."""
        while not self._link.ready(_LOOK):
            # A process that the child has started may keep the pipe open.
            if not self._process.is_alive() and not self._link.ready(0):
                raise self._death()
        byte = self._link.wait()
        if byte == _DONE:
            return
        if byte == _FAILED:
            self._raise(*self._object())
        raise self._death()

    def receive(self) -> Any:
        """Wait for the child's signal and return the object after it. Raises as `wait` does."""
        self.wait()
        return self._object()

    def kill(self) -> None:
        """End the child at once. A thread that waits for it then raises `fault`."""
        self._process.kill()

    def release(self) -> None:
        """Close the link, which ends the child at its next wait. Releasing several before closing any saves time."""
        self._link.close()
        self._deadline = self._deadline or time.monotonic() + _PATIENCE

    def close(self) -> None:
        """End the child after a short time to finish."""
        self.release()
        self._process.join(max(0.0, self._deadline - time.monotonic()))
        self._process.kill()
        self._process.join()

    def _object(self) -> Any:
        try:
            return self._link.receive()
        except EOFError:
            raise self._death() from None

    def _raise(self, pickled: bytes | None, kind: str, message: str, trace: str) -> None:
        try:
            error = None if pickled is None else pickle.loads(pickled)
        except Exception:  # third-party exception classes may fail in any way
            error = None
        if isinstance(error, BaseException):
            raise error from RemoteTraceback(trace)
        raise self._fault(f"{kind} in {self._name}: {message}\n{trace}")

    def _death(self) -> RuntimeError:
        self._process.join(_PATIENCE)  # its pipes close shortly before it ends
        code = self._process.exitcode
        how = f"ended unexpectedly with exit status {code}"
        if code is None or code >= 0:
            return self._fault(f"{self._name} {how}")
        how = f"was killed by {signal_name(-code)}"
        how += " (out of memory?)" if -code == signal.SIGKILL else ""
        death = self._fault(f"{self._name} {how}")
        death.__cause__ = Killed(how)
        return death


def _main(reader: Connection, writer: Connection, pickled: bytes) -> None:
    """The main function of a child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole terminal; the parent ends its children
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    link = Link(reader, writer)
    with suppress(BrokenPipeError):  # the parent has closed the link and waits for nothing
        try:
            work, args = pickle.loads(pickled)
            work(link, *args)
        except (Exception, SystemExit) as error:
            link.done(_FAILED)
            link.send(_portable(error))


def _end_with_parent() -> None:
    """End this process when its parent ends, also when the parent is killed and cannot end its children."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _portable(error: BaseException) -> tuple[bytes | None, str, str, str]:
    """An exception as it is sent: pickled (None if that fails), the name of its type, its message, its traceback."""
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)
    except Exception:  # for example a lock among its arguments
        pickled = None
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return pickled, type(error).__name__, str(error), trace
