"""Damaged files, full disks, folders that cannot be written, clocks that jump."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from harm import APART, Grid, kill, small_disk, until

from flowbench.store import checkpoint, records

FILES = {
    "record": "run.json",
    "evaluations": "evals.csv",
    "episodes": "train.csv",
    "log": "log.txt",
    "lock": "run.lock",
    "manifest": "checkpoint/{step}.json",
    "state": "checkpoint/{step}.state.safetensors",
    "transitions": "checkpoint/0-50.replay.safetensors",
}


@pytest.fixture(scope="session")
def left(zygote, suite: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of two runs killed on their way, with two checkpoints each."""
    grid = Grid(zygote, tmp_path_factory.mktemp("left") / "results", suite, *APART)
    parent = grid.start()
    until(lambda: sum(max(checkpoint.steps(folder), default=0) >= 250 for folder in grid.folders) == 2)
    for pid in (parent, *grid.workers()):
        kill(pid)
    grid.wait(parent)
    grid.wait_for_workers()
    assert all(len(checkpoint.steps(folder)) >= 2 for folder in grid.folders)
    return grid.root


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def noise(content: bytes) -> bytes:
    return random.Random(0).randbytes(max(16, len(content)))


@pytest.mark.parametrize("harm", [cut, noise])
@pytest.mark.parametrize("file", FILES)
def test_damaged_file_changes_no_row(apart: Grid, undisturbed_apart, left: Path, file: str, harm) -> None:
    shutil.copytree(left, apart.root)
    harmed, whole = apart.folders
    path = harmed / FILES[file].format(step=checkpoint.steps(harmed)[-1])
    path.write_bytes(harm(path.read_bytes()))
    assert apart.run() == 0, apart.printed
    assert apart.tables() == undisturbed_apart
    assert records.read_run(whole).resumed[0].step >= 250
    if file == "record":  # what cannot be read is not overwritten
        (aside,) = whole.parent.glob("replaced-*-seed-0")
        assert (aside / "run.json").read_bytes() == harm((left / path.relative_to(apart.root)).read_bytes())
    elif file in ("log", "lock"):
        assert records.read_run(harmed).resumed
    else:
        assert "is skipped: " in (harmed / "log.txt").read_text()


@pytest.mark.parametrize(
    ("room", "what"),
    [
        (300, r"failed: OSError: [Errno 27] File too large: '{folder}/run.json.new'; log: "),
        (5000, r"failed: OSError: [Errno 27] File too large: '{folder}/checkpoint/50.state.safetensors'; log: "),
    ],
)
def test_file_that_is_too_large(apart: Grid, undisturbed_apart, room: int, what: str) -> None:
    assert apart.run(largest_file=room) == 1
    for folder in apart.folders or [next(apart.root.glob("*/*/*/*")) / f"seed-{seed}" for seed in range(2)]:
        until(lambda: what.format(folder=folder) in apart.printed)  # noqa: B023 (called at once)
        assert not list(folder.glob("**/*.new"))
        assert not list(folder.glob("checkpoint/*"))
    assert apart.run() == 0
    assert apart.tables() == undisturbed_apart


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "disk").mkdir()
    yield from small_disk(tmp_path / "disk", "size=1m")


def fill(folder: Path) -> Path:
    """A file that takes all the room there is."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return ballast
    raise AssertionError("the disk never was full")


@pytest.mark.parametrize("at", [0, 100, 200, 300])
def test_full_disk(zygote, suite: str, undisturbed_apart, disk: Path, tmp_path: Path, at: int) -> None:
    grid = Grid(zygote, disk / "results", suite, *APART)
    grid.log = tmp_path / "printed"
    parent = grid.start()

    def reached(folder: Path) -> bool:
        """A finished cell has no checkpoints left. It may be far ahead of the other on a machine with other work."""
        record = records.read_if_valid(folder)
        return max(checkpoint.steps(folder), default=0) >= at or (record is not None and record.status == "done")

    until(lambda: len(grid.folders) == 2 and all(map(reached, grid.folders)))
    ballast = fill(disk)
    assert grid.wait(parent) == 1, grid.printed
    failures = [line for line in grid.printed.splitlines() if line.startswith("flowbench: ")]
    assert failures
    # The second is of a worker that could not even write what became of it.
    told = (
        "failed: OSError: [Errno 28] No space left on device: '",
        "failed: a fault of the machine, such as a full disk, ended the worker",
    )
    assert [line for line in failures if not any(what in line for what in told)] == []
    ballast.unlink()
    assert grid.run() == 0, grid.printed
    assert grid.tables() == undisturbed_apart


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "read-only"
    folder.mkdir()
    if os.geteuid() == 0:
        yield from small_disk(folder, "ro")
    else:
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


@pytest.mark.parametrize("place", ["", "results"])
def test_results_folder_that_cannot_be_written_is_one_line(
    zygote, suite: str, read_only: Path, tmp_path: Path, place: str
) -> None:
    grid = Grid(zygote, read_only / place, suite)
    grid.log = tmp_path / "printed"
    assert grid.run() == 2
    (line,) = grid.printed.splitlines()
    assert line.startswith(f"flowbench: --results '{read_only / place}' cannot be ")


def test_jumping_clock_changes_no_row(apart: Grid, undisturbed_apart) -> None:
    assert apart.run(jumping_clock=True) == 0, apart.printed
    assert apart.tables() == undisturbed_apart
    for folder in apart.folders:
        record = records.read_run(folder)
        assert 0 < record.seconds < 300
        assert all(seconds >= 0 for seconds in record.wall.values())
