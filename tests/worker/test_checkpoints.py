"""Checkpoints are written in a thread while training continues, and are what they were when they were taken."""

from __future__ import annotations

import errno
import io
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import make_cell, make_suite, put_run, write_algorithm

from flowbench.store import checkpoint, lease, records
from flowbench.store.checkpoint import Snapshot, Writer
from flowbench.worker import __main__ as worker_main
from flowbench.worker import protocol
from flowbench.worker.session import Session

pytestmark = pytest.mark.slow
SUITE = make_suite(steps=450, every=150)  # episodes of Pendulum-v1 are of 200 steps
WRITE, SNAPSHOT = Writer.write, Writer.snapshot


def queue(root: Path, algo: str = "td3", **more: object) -> Path:
    cell = make_cell(algo, suite=SUITE, random_steps=100, **more)
    return put_run(root, cell, status="queued", device="cpu", threads=1, checkpoint_every=150, keep_checkpoints=True)


def train(folder: Path, *leases: object) -> int:
    """Train in this process and return the exit code."""
    return worker_main._run(Session([folder], leases), io.StringIO())


def written(monkeypatch: pytest.MonkeyPatch, write: Callable[[Writer, Snapshot], None]) -> None:
    monkeypatch.setattr(Writer, "write", write)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "training did not continue"
        time.sleep(0.01)


def test_rows_written_meanwhile_do_not_belong_to_the_checkpoint(tmp_path: Path, monkeypatch) -> None:
    folder = queue(tmp_path)
    evals = folder / "evals.csv"
    sizes: list[tuple[int, int]] = []
    writing: set[int] = set()

    taken: list[int] = []

    def taking(self: Writer, step: int, *more: object) -> Snapshot:
        taken.append(step)
        assert not writing, "two checkpoints are written at once"
        return SNAPSHOT(self, step, *more)

    def slowly(self: Writer, snapshot: Snapshot) -> None:
        writing.add(snapshot.step)
        # The evaluation of a step follows its checkpoint: now the row of this step is there.
        until(lambda: len(evals.read_text().splitlines()) > snapshot.step // 150)
        for _ in range(300 if snapshot.step == 150 else 0):  # up to 3 s, in which the next one is due and has to wait
            time.sleep(0.01 if taken == [150] else 0)
        WRITE(self, snapshot)
        sizes.append((checkpoint.load(self.run, snapshot.step).tables["evals.csv"], evals.stat().st_size))
        writing.clear()

    written(monkeypatch, slowly)
    monkeypatch.setattr(Writer, "snapshot", taking)
    assert train(folder) == 0, records.read_run(folder).error
    header, *rows = evals.read_text().splitlines(keepends=True)
    assert len(rows) == 3
    ends = [len(header) + sum(map(len, rows[:count])) for count in range(4)]
    assert sizes == [(ends[0], ends[1]), (ends[1], ends[2]), (ends[2], ends[3])]
    assert [checkpoint.load(folder, step).tables["evals.csv"] for step in (300, 450)] == ends[1:3]


def test_an_error_of_the_thread_ends_training(tmp_path: Path, monkeypatch) -> None:
    folder = queue(tmp_path)

    def full(self: Writer, snapshot: Snapshot) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(self.run))

    written(monkeypatch, full)
    assert train(folder) == protocol.EXIT_TRANSIENT
    run = records.read_run(folder)
    assert run.status == "failed"
    assert "No space left on device" in run.error
    assert "\n450," not in (folder / "evals.csv").read_text()  # long before its end
    assert checkpoint.steps(folder) == []


def test_an_error_of_the_last_checkpoint_fails_the_run(tmp_path: Path, monkeypatch) -> None:
    folder = queue(tmp_path)

    def full(self: Writer, snapshot: Snapshot) -> None:
        if snapshot.step == 450:
            until(lambda: "\n450," in (self.run / "evals.csv").read_text())
            raise OSError(errno.ENOSPC, "No space left on device", str(self.run))
        WRITE(self, snapshot)

    written(monkeypatch, full)
    assert train(folder) == protocol.EXIT_TRANSIENT
    assert records.read_run(folder).status == "failed"
    assert [found.step for found in checkpoint.newest([folder])] == [300]


def test_a_stop_while_one_is_written_writes_both(tmp_path: Path, monkeypatch) -> None:
    folder = queue(tmp_path)
    order: list[int] = []

    def slowly(self: Writer, snapshot: Snapshot) -> None:
        if snapshot.step == 150:
            until(lambda: "\n150," in (self.run / "evals.csv").read_text())
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.3)
        WRITE(self, snapshot)
        order.append(snapshot.step)

    written(monkeypatch, slowly)
    assert train(folder) == protocol.EXIT_STOPPED
    assert records.read_run(folder).status == "stopped"
    assert order == checkpoint.steps(folder)
    assert order[0] == 150
    assert len(order) == 2
    assert [found.step for found in checkpoint.newest([folder])] == order[1:]


@pytest.mark.parametrize("fails", [False, True])
def test_an_error_of_training_waits_for_the_thread(tmp_path: Path, monkeypatch, capsys, fails: bool) -> None:
    spec = write_algorithm(tmp_path, "Boom", "if type(self).calls == 60: raise RuntimeError('boom')")
    folder = queue(tmp_path, "Boom", target=spec)

    def slowly(self: Writer, snapshot: Snapshot) -> None:
        time.sleep(0.5)
        if fails:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.run))
        WRITE(self, snapshot)

    written(monkeypatch, slowly)
    assert train(folder) == protocol.EXIT_FAILED
    assert "boom" in records.read_run(folder).error
    assert [found.step for found in checkpoint.newest([folder])] == ([] if fails else [150])
    assert ("No space left" in capsys.readouterr().err) == fails


class OfThread:
    """A lease that is lost when the thread looks at it."""

    def check(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise lease.Lost("another host has taken over")


def test_the_thread_writes_nothing_without_the_lease(tmp_path: Path) -> None:
    folder = queue(tmp_path)
    with pytest.raises(lease.Lost):
        train(folder, OfThread())
    assert checkpoint.steps(folder) == []
