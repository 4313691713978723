"""The overhead of flowbench per cell: planning many cells, running many empty ones, and starting real workers.

    python benchmarks/overhead.py [--planned 10000] [--run 1000] [--real 4]

Planned and empty cells are never trained. A short script replaces the worker, so that only the parent's own work and
memory and the start of a process are measured. The real workers train for a few steps.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flowbench import cli
from flowbench.plan.expand import expand
from flowbench.plan.options import RunOptions
from flowbench.schedule.executors import local
from flowbench.schedule.groups import Group, enqueue, find_due, make_groups
from flowbench.schedule.resources import share
from flowbench.schedule.runner import Runner

# Replaces the worker: marks the runs as done.
FINISH = """
import json, sys
for folder in sys.argv[1:]:
    with open(folder + "/run.json") as file:
        run = json.load(file)
    with open(folder + "/run.json", "w") as file:
        json.dump({**run, "status": "done"}, file)
"""


def memory() -> float:
    """MiB of this process: the current value where /proc exists, otherwise the peak."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def planned(count: int, root: Path) -> None:
    """Plan a grid of one task, print it, and put it into the queue."""
    before, started = memory(), time.perf_counter()
    cells = expand("quick", ["td3"], str(count), tasks=["cartpole-balance"])
    due = find_due(root, cells)
    groups = make_groups(due.due, 1, root, cells)
    seconds = time.perf_counter() - started
    print(f"planned {len(groups):,} cells in {seconds:.2f} s, {memory() - before:.0f} MiB more")
    started = time.perf_counter()
    command = ["run", "--suite", "quick", "--task", "cartpole-balance", "--algo", "td3", "--seeds", str(count)]
    with contextlib.redirect_stdout(io.StringIO()):
        assert cli._status([*command, "--results", str(root), "--dry-run"]) == 0
    print(f"--dry-run in {time.perf_counter() - started:.2f} s")
    started = time.perf_counter()
    enqueue(root, cells)
    print(f"queued in {time.perf_counter() - started:.2f} s")
    started = time.perf_counter()
    make_groups(find_due(root, cells).due, 1, root, cells)
    print(f"planned again, reading a record of each cell, in {time.perf_counter() - started:.2f} s")


def run(count: int, root: Path) -> None:
    """Run cells whose worker is a script, and print the parent's memory meanwhile."""
    real = subprocess.Popen
    local.subprocess.Popen = (
        lambda command, **options: real(  # type: ignore[misc, assignment]
            [sys.executable, "-S", "-c", FINISH, *command[command.index("--locked") + 1 :]], **options
        )
    )
    cells = expand("quick", ["td3"], str(count), tasks=["cartpole-balance"])
    runner = Runner(root, share("cpu", None), lambda *_: None, RunOptions())
    started, used = time.perf_counter(), time.process_time()
    for number, outcome in enumerate(runner.run([Group((cell,)) for cell in cells]), start=1):
        assert outcome.status == "done", outcome
        if number % max(1, count // 5) == 0:
            print(f"  after {number:,} cells the parent uses {memory():.0f} MiB")
    local.subprocess.Popen = real
    seconds, own = time.perf_counter() - started, time.process_time() - used
    print(f"ran {count:,} cells with scripted workers: {1e3 * seconds / count:.0f} ms a cell,", end=" ")
    print(f"{1e3 * own / count:.1f} ms of it CPU time of the parent")


def real(count: int, root: Path) -> None:
    """Run real workers one after the other; the time that is not training is overhead."""
    command = [sys.executable, "-m", "flowbench.cli", "run", "--suite", "quick", "--task", "cartpole-balance"]
    command += ["--algo", "td3", "--seeds", str(count), "--jobs", "1", "--device", "cpu", "--steps", "600", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    started = time.perf_counter()
    subprocess.run([*command, "--results", str(root)], env=environment, check=True)
    seconds = time.perf_counter() - started
    trained = sum(json.loads(path.read_text())["wall"]["total"] for path in root.glob("*/*/*/*/*/run.json"))
    overhead, training = (seconds - trained) / count, trained / count
    print(f"ran {count} real cells: {overhead:.1f} s a cell in addition to {training:.1f} s of training")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in (("planned", 10_000), ("run", 1_000), ("real", 4)):
        parser.add_argument(f"--{name}", type=int, default=usual, metavar="CELLS")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for part, name in ((planned, "planned"), (run, "run"), (real, "real")):
            if count := getattr(asked, name):
                part(count, Path(folder) / name)


if __name__ == "__main__":
    main()
