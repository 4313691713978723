"""`python -m flowbench.worker FOLDER...`: trains one group of cells, a folder each, in one process.

All it needs is the folders' run.json files, so a cell that is not done can be run by hand as it was to be run. What
goes on is told as JSON lines on standard output; everything else that is printed goes to the log.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from flowbench.common import errors
from flowbench.store import lease, lock, records
from flowbench.worker.protocol import EXIT_BUSY, EXIT_FAILED, EXIT_STOPPED, EXIT_TRANSIENT, timed_out
from flowbench.worker.session import Cells, Stopped, ignore_signals, said

GRACE_SECONDS = 20.0  # from when the time is up to the end of a worker that saves nothing, because it hangs


def main(arguments: Sequence[str]) -> int:
    """Train the cells in the given folders; the exit status says how it ended.

    `--locked` says that the caller holds the folders' locks and that this process has inherited them.
    """
    tell = _claim_stdout()
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
                done = [str(folder) for folder in folders if records.recorded(folder).get("status") == "done"]
                if done:
                    print(f"done already: {', '.join(done)}; flowbench run --force runs it again", file=sys.stderr)
                    return EXIT_BUSY
            with lease.beating(leases, _end):
                status = _run(Cells(folders, leases), tell)
        except (lock.Busy, lease.Lost) as error:
            print(error, file=sys.stderr)
            return EXIT_BUSY
        for each in leases:  # whoever made them may be gone
            each.release()
        return status


def _end(error: lease.Lost) -> None:
    """Another host trains the cells: end at once, whatever the training is at."""
    print(error, file=sys.stderr, flush=True)
    os._exit(EXIT_BUSY)


def _run(cells: Cells, tell: TextIO) -> int:
    with _timeout(cells):
        return _outcome(cells, tell)


@contextmanager
def _timeout(cells: Cells) -> Iterator[None]:
    """Stop when the time that the records give is up; if training hangs, end this process, telling where."""
    seconds = cells.first.get("timeout")
    if not seconds:
        yield
        return
    signal.signal(signal.SIGALRM, cells.time_out)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True, file=2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()


def _outcome(cells: Cells, tell: TextIO) -> int:
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, cells.stop)
        for run in cells.runs:
            run["status"] = "running"  # also where an earlier attempt failed
        started = cells.first.get("started") or records.now()
        cells.update(status="running", started=started, ended=None, error=None, pid=os.getpid())
        _train(cells, partial(_say, tell))
        ignore_signals()  # the work is done: what is left is to say so
    except Stopped:
        return _stopped(cells)
    except lease.Lost:
        raise
    except (Exception, SystemExit) as error:
        ignore_signals()
        if cells.stopping and cells.trainer is None:
            return _stopped(cells)  # amid an import: what that makes of it is no failure
        return _failed(cells, error)
    _end_as(cells, "done")
    cells.drop_checkpoints()
    if not cells.failed:
        return 0
    return EXIT_TRANSIENT if cells.failed_transiently else EXIT_FAILED


def _train(cells: Cells, say: Callable[..., None]) -> None:
    say(event="stage", text="loading")
    started = time.perf_counter()
    from flowbench.worker import train  # and torch with it, which takes seconds

    train.train(cells, say, started)


def _stopped(cells: Cells) -> int:
    if cells.timed_out:
        _end_as(cells, "failed", timed_out(cells.first["timeout"]))
        return EXIT_FAILED
    _end_as(cells, "stopped")
    return EXIT_STOPPED


def _failed(cells: Cells, error: BaseException) -> int:
    """Write that it failed; called while the error is handled."""
    _end_as(cells, "failed", said(error))
    with suppress(OSError):
        traceback.print_exc()
    return EXIT_TRANSIENT if errors.is_transient(error) else EXIT_FAILED


def _end_as(cells: Cells, status: str, error: str | None = None) -> None:
    """Write how it ended."""
    try:
        cells.end(status, error)
    except OSError:  # a full disk, most likely
        with suppress(OSError):  # the log lies on it, too
            traceback.print_exc()
        # Not returned, so that the leases stay: whoever started this process writes the record under them.
        sys.exit(EXIT_TRANSIENT)


def _claim_stdout() -> TextIO:
    """Keep standard output for events alone: whatever a library or an algorithm prints goes to standard error."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events


def _say(tell: TextIO, **event: Any) -> None:
    try:
        tell.write(json.dumps(event) + "\n")
        tell.flush()
    except BrokenPipeError:  # nobody listens any more: the process that started this one is gone
        raise Stopped from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
