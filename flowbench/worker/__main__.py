"""`python -m flowbench.worker FOLDER...`: trains one group of cells, one folder each, in one process.

It needs nothing but the run.json files in the folders, so an unfinished cell can also be run by hand. It reports events
as JSON lines on standard output; everything else that is printed goes to the log.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TextIO

from flowbench.common import errors
from flowbench.store import lease, lock, records
from flowbench.store.records import Status
from flowbench.worker.protocol import EXIT_BUSY, EXIT_FAILED, EXIT_STOPPED, EXIT_TRANSIENT, timed_out
from flowbench.worker.session import Session, Stopped, failure, ignore_signals

GRACE_SECONDS = 20.0  # between the time limit and the end of a worker that hangs and saves nothing


def main(arguments: Sequence[str]) -> int:
    """Train the cells in the given folders and return the exit code.

    `--locked` means that the caller holds the folders' locks and that this process has inherited them.
    """
    events = _claim_stdout()
    folders = [Path(argument) for argument in arguments if argument != "--locked"]
    if not folders:
        print("usage: python -m flowbench.worker [--locked] FOLDER [FOLDER ...]", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        try:
            if "--locked" in arguments:
                leases = [lease.adopt(folder) for folder in folders]
            else:
                abandoned = lease.abandoned(folders)
                leases = [stack.enter_context(lock.hold(folder, abandoned)).lease for folder in folders]
                done = [str(folder) for folder in folders if records.is_done(folder)]
                if done:
                    print(f"done already: {', '.join(done)}; flowbench run --force runs it again", file=sys.stderr)
                    return EXIT_BUSY
            with lease.beating(leases, _end):
                status = _run(Session(folders, leases), events)
        except (lock.Busy, lease.Lost) as error:
            print(error, file=sys.stderr)
            return EXIT_BUSY
        for each in leases:  # the process that took the leases may have ended
            each.release()
        return status


def _end(error: lease.Lost) -> None:
    """Another host trains the cells: end this process at once."""
    print(error, file=sys.stderr, flush=True)
    os._exit(EXIT_BUSY)


def _run(session: Session, events: TextIO) -> int:
    with _time_limit(session):
        return _train_and_record(session, events)


@contextmanager
def _time_limit(session: Session) -> Iterator[None]:
    """Stop when the time limit of the records is reached; if training hangs, print where and end this process."""
    seconds = session.first.timeout
    if not seconds:
        yield
        return
    signal.signal(signal.SIGALRM, session.time_out)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True, file=2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()


def _train_and_record(session: Session, events: TextIO) -> int:
    """Train, write into the records how it ended, and return the exit code."""
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, session.stop)
        for run in session.runs:
            run.status = "running"  # also where an earlier attempt failed
        started = session.first.started or records.now()
        session.update(status="running", started=started, ended=None, error=None, pid=os.getpid())
        _train(session, partial(_report, events))
        ignore_signals()  # the work is done and only needs to be recorded
    except Stopped:
        return _stopped(session)
    except lease.Lost:
        raise
    except (Exception, SystemExit) as error:
        ignore_signals()
        if session.stopping and session.trainer is None:
            return _stopped(session)  # a signal during an import can surface as any error
        return _failed(session, error)
    _record_end(session, "done")
    session.remove_checkpoints()
    if not session.failed:
        return 0
    return EXIT_TRANSIENT if session.failed_transiently else EXIT_FAILED


def _train(session: Session, report: Callable[..., None]) -> None:
    report(event="stage", text="loading")
    started = time.perf_counter()
    from flowbench.worker import train  # imports torch, which takes seconds

    train.train(session, report, started)


def _stopped(session: Session) -> int:
    if session.timed_out:
        _record_end(session, "failed", timed_out(session.first.timeout or 0.0))
        return EXIT_FAILED
    _record_end(session, "stopped")
    return EXIT_STOPPED


def _failed(session: Session, error: BaseException) -> int:
    """Record that the run failed; called while the error is handled."""
    _record_end(session, "failed", failure(error))
    with suppress(OSError):
        traceback.print_exc()
    return EXIT_TRANSIENT if errors.is_transient(error) else EXIT_FAILED


def _record_end(session: Session, status: Status, error: str | None = None) -> None:
    try:
        session.end(status, error)
    except OSError:  # most likely a full disk
        with suppress(OSError):  # the log is on the same disk
            traceback.print_exc()
        # Exit instead of returning, so that the leases stay: the process that started this one writes the records.
        sys.exit(EXIT_TRANSIENT)


def _claim_stdout() -> TextIO:
    """Reserve standard output for events: whatever a library or an algorithm prints goes to standard error."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events


def _report(events: TextIO, **event: Any) -> None:
    try:
        events.write(json.dumps(event) + "\n")
        events.flush()
    except BrokenPipeError:  # the process that started this one has ended
        raise Stopped from None


def _exit(status: int) -> NoReturn:
    """End this process, also if an algorithm or environment has started threads or processes that still run.

    Python waits for those that are not daemons.
    """
    names = [each.name for each in threading.enumerate() if not each.daemon and each != threading.main_thread()]
    names += [each.name for each in multiprocessing.active_children() if not each.daemon]
    if names:
        print(f"still running when the worker ended: {', '.join(names)}", file=sys.stderr, flush=True)
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    _exit(main(sys.argv[1:]))
