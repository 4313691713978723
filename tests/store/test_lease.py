"""Leases: of several machines that share a folder, one trains. Other machines are other names here."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes import make_cell, make_suite, put_run

from flowbench.schedule.groups import find_due
from flowbench.store import lease, lock, records
from flowbench.worker import __main__ as worker_main
from flowbench.worker import protocol

HERE = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.05)
    monkeypatch.setattr(lease, "LOOK", 0.05)
    monkeypatch.setattr(lease, "STALE", 0.5)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], object]:
    """Makes what is done inside that of another machine."""

    @contextmanager
    def on(name: str = "other-1") -> Iterator[None]:
        with monkeypatch.context() as patched:
            patched.setattr(lease, "host", lambda: name)
            yield

    return on


def taken(folder: Path, abandoned: set[Path] | None = None) -> lease.Lease:
    found = lease.take(folder, abandoned or set())
    assert found is not None
    return found


def test_host_is_its_name_and_its_boot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lease, "BOOT", tmp_path / "boot_id")
    monkeypatch.setattr(lease.socket, "gethostname", lambda: "node7.cluster/x")
    assert lease.host() == "node7_cluster_x-0"
    (tmp_path / "boot_id").write_text("0123456789abcdef\n")
    assert lease.host() == "node7_cluster_x-01234567"


def test_released_lease_leaves_nothing(tmp_path: Path) -> None:
    held = taken(tmp_path)
    held.beat()
    assert held.is_held()
    held.release()
    assert not held.is_held()
    assert list(tmp_path.iterdir()) == []
    held.release()


def test_lease_excludes_other_hosts(tmp_path: Path, elsewhere) -> None:
    held = taken(tmp_path)
    with elsewhere():
        assert lease.take(tmp_path) is None
    assert held.is_held()
    assert [path.name for path in tmp_path.iterdir()] == [lease.FOLDER]


def test_lease_of_a_dead_process_of_this_host_is_free_at_once(tmp_path: Path) -> None:
    dead = taken(tmp_path)
    began = time.monotonic()
    assert lease.abandoned([tmp_path]) == set()
    held = taken(tmp_path)
    assert time.monotonic() - began < lease.STALE
    assert not dead.is_held()
    assert held.is_held()


def test_lease_that_is_not_renewed_is_taken_over(tmp_path: Path, elsewhere) -> None:
    with elsewhere():
        dead = taken(tmp_path)
    began = time.monotonic()
    found = lease.abandoned([tmp_path])
    assert time.monotonic() - began >= lease.STALE
    assert found == {dead.path}
    held = taken(tmp_path, found)
    for notice in (dead.check, dead.beat):
        with pytest.raises(lease.Lost, match=r"another host has taken over .*"):
            notice()
    dead.release()
    assert held.is_held()


def test_lease_that_is_renewed_is_never_abandoned_whatever_the_clocks_say(tmp_path: Path, elsewhere) -> None:
    with elsewhere():
        held = taken(tmp_path)
    with lease.beating([held], pytest.fail):
        os.utime(held.path, (0, 0))
        assert lease.abandoned([tmp_path]) == set()
    assert held.is_held()


def test_several_leases_are_watched_at_the_same_time(tmp_path: Path, elsewhere) -> None:
    folders = [tmp_path / str(number) for number in range(5)]
    with elsewhere():
        for folder in folders:
            folder.mkdir()
            taken(folder)
    began = time.monotonic()
    assert len(lease.abandoned(folders)) == 5
    assert time.monotonic() - began < 2 * lease.STALE


def test_watching_can_be_stopped(tmp_path: Path, elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "STALE", 1000.0)
    with elsewhere():
        taken(tmp_path)
    halted = threading.Event()
    halted.set()
    assert lease.abandoned([tmp_path], halted.wait) == set()


def test_hanging_file_system_is_not_taken_for_a_dead_host(tmp_path: Path, elsewhere) -> None:
    with elsewhere():
        taken(tmp_path)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        time.sleep(lease.STALE)  # as long as a whole silence, and yet one look

    assert lease.abandoned([tmp_path], wait)
    assert len(waits) == pytest.approx(lease.STALE / (2 * lease.LOOK), abs=1)


@pytest.mark.slow
def test_one_of_several_takers_wins(tmp_path: Path, elsewhere) -> None:
    with elsewhere("dead-1"):
        taken(tmp_path)
    code = """
        import sys, time
        from pathlib import Path
        from flowbench.store import lease
        lease.host = lambda: sys.argv[1]
        lease.STALE, lease.LOOK = 0.5, 0.05
        run = Path(sys.argv[2])
        found = lease.abandoned([run])
        print("ready", flush=True); sys.stdin.readline()
        held = lease.take(run, found)
        print("won" if held else "lost", flush=True); sys.stdin.readline()
        print(held.is_held() if held else "lost")
    """
    takers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), f"taker{number}-1", str(tmp_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE,
        )
        for number in range(4)
    ]  # fmt: skip

    def all_say() -> list[str]:
        return [taker.stdout.readline().strip() for taker in takers]

    def go() -> None:
        for taker in takers:
            taker.stdin.write("\n")
            taker.stdin.flush()

    assert all_say() == ["ready"] * 4
    go()
    assert sorted(all_say()) == ["lost"] * 3 + ["won"]
    go()
    assert sorted(all_say()) == ["True"] + ["lost"] * 3
    for taker in takers:
        taker.communicate(timeout=60)
    assert [path.name for path in tmp_path.iterdir()] == [lease.FOLDER]


def test_late_taker_gets_nothing(tmp_path: Path, elsewhere) -> None:
    with elsewhere("dead-1"):
        taken(tmp_path)
    found = lease.abandoned([tmp_path])
    with elsewhere("quick-1"):
        winner = taken(tmp_path, found)
    assert lease.take(tmp_path, found) is None  # what it saw is long gone
    assert winner.is_held()


def test_remains_of_a_killed_taker_are_removed(tmp_path: Path) -> None:
    for name, content in ((f"{lease.FOLDER}-1", True), (f"{lease.FOLDER}-2", False)):
        (tmp_path / name).mkdir()
        if content:
            (tmp_path / name / "other-1.00").touch()
    (tmp_path / lease.FOLDER).mkdir()  # of one that was killed between removing a file and its folder
    held = taken(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [lease.FOLDER]
    assert held.is_held()


def test_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / f"{lease.host()}.00").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / lease.FOLDER).symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match=lease.FOLDER):
        lease.take(tmp_path / "run")
    assert len(list((tmp_path / "mine").iterdir())) == 1


# What others see


def test_cell_of_another_host_is_running_and_not_due(tmp_path: Path, elsewhere) -> None:
    cell = make_cell()
    for status in ("running", "queued"):
        folder = put_run(tmp_path, cell, status)
        with elsewhere():
            held = taken(folder)
        assert lock.is_held(folder)
        assert records.status(folder) == "running"
        assert find_due(tmp_path, [cell]).running == [cell]
        for moved in (-3600, 3600):  # beaten last an hour ago, or by a clock that was set back since
            os.utime(held.path, (time.time() + moved, time.time() + moved))
            assert records.status(folder) == ("stopped" if status == "running" else "queued")
            assert find_due(tmp_path, [cell]).due == [cell]
        held.release()
        assert records.status(folder) != "running"


def test_lease_of_this_host_does_not_replace_the_lock(tmp_path: Path) -> None:
    folder = put_run(tmp_path, make_cell(), "running")
    taken(folder)
    assert records.status(folder) == "stopped"


def test_is_live_changes_no_file(tmp_path: Path, elsewhere) -> None:
    folder = put_run(tmp_path, make_cell(), "running")
    with elsewhere():
        taken(folder)
    before = sorted(folder.iterdir())
    assert lease.is_live(folder)
    assert sorted(folder.iterdir()) == before


# Workers


def prepared(root: Path, seed: int = 0) -> Path:
    suite = make_suite(steps=1_000_000, every=20)
    cell = make_cell(suite=suite, seed=seed)
    return put_run(root, cell, "queued", device="cpu", threads=1, checkpoint_every=20)


def start(*folders: Path, host: str) -> subprocess.Popen[str]:
    """A worker of a machine of that name, which takes what it needs itself."""
    code = (
        "import sys; from flowbench.store import lease; from flowbench.worker import __main__ as worker;"
        " lease.host = lambda: sys.argv[1];"
        "lease.BEAT, lease.LOOK, lease.STALE = 0.2, 0.05, 2.0; sys.exit(worker.main(sys.argv[2:]))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, host, *map(str, folders)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=HERE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE / "tests" / "support")])},
    )  # fmt: skip


def evaluated(process: subprocess.Popen[str], times: int = 1) -> None:
    """Wait until a worker has told of so many evaluations."""
    assert process.stdout is not None
    for line in process.stdout:
        times -= '"evaluation"' in line
        if not times:
            return
    pytest.fail(process.communicate()[1])


@pytest.mark.slow
def test_worker_takes_renews_and_releases_its_lease(tmp_path: Path) -> None:
    folder = prepared(tmp_path)
    process = start(folder, host="there-1")
    evaluated(process)
    (path,) = (folder / lease.FOLDER).iterdir()
    pid, beats = path.read_text().split()
    assert (path.name.partition(".")[0], int(pid)) == ("there-1", process.pid)
    deadline = time.monotonic() + 30
    while int(path.read_text().split()[1]) <= int(beats) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert int(path.read_text().split()[1]) > int(beats)
    assert records.status(folder) == "running"
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == protocol.EXIT_STOPPED
    assert not (folder / lease.FOLDER).exists()


@pytest.mark.slow
def test_worker_that_lost_a_lease_stops_and_writes_nothing(tmp_path: Path) -> None:
    folders = [prepared(tmp_path, seed) for seed in (0, 1)]
    process = start(*folders, host="there-1")
    evaluated(process)
    (path,) = (folders[1] / lease.FOLDER).iterdir()
    path.unlink()
    time.sleep(0.05)  # an operation that was under way may still end
    kept = [folder / name for folder in folders for name in ("run.json", "evals.csv", "train.csv", "checkpoint")]
    before = [(each.stat().st_mtime_ns, each.stat().st_size) for each in kept]
    _, err = process.communicate(timeout=60)
    assert process.returncode == protocol.EXIT_BUSY
    assert "another host has taken" in err
    assert "Traceback" not in err
    assert [(each.stat().st_mtime_ns, each.stat().st_size) for each in kept] == before


@pytest.mark.slow
def test_worker_that_was_suspended_too_long_writes_nothing(tmp_path: Path) -> None:
    import signal

    folder = prepared(tmp_path)
    asleep = start(folder, host="there-1")
    evaluated(asleep)
    asleep.send_signal(signal.SIGSTOP)
    # It holds the lock of this machine, which machines need not share.
    (folder / lock.NAME).unlink()
    awake = start(folder, host="here-1")
    evaluated(awake)
    before = records.read_run(folder)
    asleep.send_signal(signal.SIGCONT)
    _, err = asleep.communicate(timeout=60)
    assert asleep.returncode == protocol.EXIT_BUSY
    assert "another host has taken" in err
    evaluated(awake, 3)
    awake.terminate()
    _, err = awake.communicate(timeout=60)
    assert (awake.returncode, before.pid) == (protocol.EXIT_STOPPED, awake.pid), err
    assert records.read_run(folder).resumed
    steps = [line.split(",")[0] for line in (folder / "evals.csv").read_text().splitlines()[1:]]
    assert steps == [str(20 * k) for k in range(1, len(steps) + 1)]  # none twice, none left out


def test_worker_with_inherited_locks_needs_a_lease_of_this_host(tmp_path: Path, elsewhere, capfd) -> None:
    folder = prepared(tmp_path)
    for hosts in ((), ("other-1",)):
        for name in hosts:
            with elsewhere(name):
                taken(folder)
        assert worker_main.main(["--locked", str(folder)]) == protocol.EXIT_BUSY
        assert "another host has taken" in capfd.readouterr().err
    assert records.read_run(folder).status == "queued"
