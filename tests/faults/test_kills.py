"""Workers and their parents killed, or asked to stop, at random instants."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from harm import INSTANTS, Grid, kill, until

from flowbench.store import checkpoint, records
from flowbench.store.checkpoint import FOLDER

FIRST = {"worker": 101, "parent": 202, "both": 303}  # the seed of the instants


def at_an_instant(grid: Grid, parent: int, instants: random.Random) -> bool:
    """Wait for a random instant of a grid under way; whether it came before the grid's end."""
    if instants.random() < 0.2:  # during the start
        time.sleep(instants.uniform(0.0, 0.3))
    else:
        before, checkpoints = grid.saved(), instants.randint(1, 6)
        until(lambda: grid.saved() >= before + 50 * checkpoints or grid.done() == 4 or not alive(parent))
        time.sleep(instants.uniform(0.0, 0.05))
    return grid.done() < 4


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.timeout(300 + 20 * INSTANTS)
@pytest.mark.parametrize("whom", ["worker", "parent", "both"])
def test_kills_at_random_instants_change_no_row(zygote, suite: str, undisturbed, tmp_path: Path, whom: str) -> None:
    instants = random.Random(FIRST[whom])
    print(f"{INSTANTS} instants, seed {FIRST[whom]}")
    kills, grids = 0, []
    while kills < INSTANTS:
        grids.append(Grid(zygote, tmp_path / f"results-{len(grids)}", suite))
        killed = True
        while killed and kills < INSTANTS:
            killed = strike(grids[-1], whom, instants)
            kills += killed
        finished = {folder: (folder / "evals.csv").read_bytes() for folder in done(grids[-1])}
        assert grids[-1].run() == 0, grids[-1].printed
        assert {folder: (folder / "evals.csv").read_bytes() for folder in finished} == finished
        assert grids[-1].tables() == undisturbed
        assert [records.read_run(folder).error for folder in grids[-1].folders] == [None] * 4
        assert not [folder for folder in grids[-1].folders if (folder / FOLDER).exists()]


def done(grid: Grid) -> list[Path]:
    return [folder for folder in grid.folders if records.is_done(folder)]


def strike(grid: Grid, whom: str, instants: random.Random) -> bool:
    """Run a grid and kill some of its processes at a random instant; whether there was anything to kill."""
    parent = grid.start()
    struck = False
    if at_an_instant(grid, parent, instants):
        workers = grid.workers()
        if whom != "parent":
            victims = instants.sample(workers, min(len(workers), 2 if whom == "both" else 1))
            struck = sum(map(kill, victims)) > 0
        if whom != "worker":
            struck = kill(parent)
    status = grid.wait(parent)
    grid.wait_for_workers()
    if whom == "worker" and struck:
        assert status in (0, 1)  # it may have been done already
        if status == 1:
            assert "failed: the worker was killed by SIGKILL, " in grid.printed
    return struck


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_grid_saves_says_how_to_resume_and_resumes(grid: Grid, undisturbed, number: int) -> None:
    parent = grid.start()
    until(lambda: len(grid.workers()) == 2 and grid.saved() >= 200)
    before = [max(checkpoint.steps(folder), default=0) for folder in grid.folders]
    os.kill(parent, number)
    assert grid.wait(parent) == 130
    *_, last = grid.printed.splitlines()
    assert last == "flowbench: interrupted; the same command resumes it"
    assert {records.status(folder) for folder in grid.folders} <= {"stopped", "done"}
    assert grid.done() < 4
    after = [max(checkpoint.steps(folder), default=450) for folder in grid.folders]
    assert all(late >= early for early, late in zip(before, after, strict=True))
    assert grid.run() == 0
    assert grid.tables() == undisturbed
    assert any(records.read_run(folder).resumed for folder in grid.folders)
