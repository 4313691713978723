"""`flowbench run`, from the command line to the files, in a temporary folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from fakes import EXAMPLE, TINY, put_run, without_clock, write_algorithm, write_suite

import algos
import flowbench as package
from flowbench.plan.expand import expand
from flowbench.store import lock, records

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder with its time of change and its content."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# A grid


def test_grid_leaves_one_folder_per_cell(grid) -> None:
    _, results = grid
    folders = sorted(path.relative_to(results).as_posix() for path in records.folders(results))
    assert len(folders) == 8
    for task in ("cartpole-balance", "pendulum-swingup"):
        for algo in ("td3", "ddpg"):
            for seed in (0, 1):
                pattern = rf"mini/{task}/{algo}/[\w=,]*hidden=8[\w=,]*-[0-9a-f]{{8}}/seed-{seed}"
                assert sum(bool(re.fullmatch(pattern, folder)) for folder in folders) == 1
    for folder in records.folders(results):
        run = records.read_run(folder)
        assert run.status == "done"
        assert (run.config["hidden"], run.config["batch_size"], run.config["random_steps"]) == (8, 4, 20)
        assert (folder / "evals.csv").read_text().count("\n") == 3
        assert (folder / "log.txt").exists()


def test_finished_grid_is_not_run_again(grid, flowbench, no_workers) -> None:
    arguments, results = grid
    before = snapshot(results)
    status, out, err = flowbench(*arguments)
    assert (status, err) == (0, "")
    assert out == "8 cells, 0 to run, 8 done already\n"
    assert snapshot(results) == before


KEPT = [
    (("--keep-weights",), "keep_weights", True, "--keep-weights"),
    (("--keep-checkpoints",), "keep_checkpoints", True, "--keep-checkpoints"),
    (("--log", "tensorboard"), "log", ["tensorboard"], "--log tensorboard"),
]


@pytest.mark.parametrize(("options", "key", "value", "named"), KEPT)
@pytest.mark.parametrize("more", [(), ("--quiet",), ("--dry-run",)])
def test_options_that_do_nothing_for_finished_cells_say_so(
    flowbench, tmp_path: Path, no_workers, monkeypatch, options, key: str, value, named: str, more
) -> None:
    monkeypatch.setattr("flowbench.store.loggers.check", lambda names: None)
    suite = write_suite(tmp_path, tasks=["pendulum-swingup"])
    for cell in expand(suite, [f"td3[{TINY}]"], "3"):
        put_run(tmp_path, cell, **({key: value} if cell.seed == 2 else {}))
    arguments = ["run", "--suite", suite, "--algo", f"td3[{TINY}]", "--seeds", "3", "--results", tmp_path]
    assert flowbench(*arguments, *more)[2] == ""
    status, _, err = flowbench(*arguments, *options, *more)
    assert status == 0
    assert err == (
        f"flowbench: {named} has no effect on 2 finished cells; --force trains finished cells again from the start\n"
    )
    assert flowbench(*arguments[:-3], "2-2", "--results", tmp_path, *options, *more)[2] == ""


def test_dry_run_shows_what_is_done_and_what_is_due(grid, flowbench, no_workers) -> None:
    arguments, results = grid
    before = snapshot(results)
    status, out, err = flowbench(*arguments, "--seeds", "0-3", "--dry-run")
    assert (status, err) == (0, "")
    rows = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines() if re.search(r"\s0-3\s", line)]
    assert len(rows) == 4
    assert all(row[1:5] == ["300", "0-3", "2", "2"] for row in rows)
    ids = {records.read_run(folder).config_id for folder in records.folders(results)}
    assert {row[5] for row in rows} == ids
    for task in ("cartpole-balance", "pendulum-swingup"):
        assert out.count(task) == 2
    assert "16 cells, 8 to run, 8 done already; 2 at once on CPU" in out
    assert snapshot(results) == before


def test_shards_divide_a_grid_independently_of_what_is_done(grid, flowbench, no_workers) -> None:
    arguments, _ = grid
    shown = [flowbench(*arguments, "--seeds", "0-3", "--dry-run", "--shard", f"{number}/3") for number in (1, 2, 3)]
    assert all((status, err) == (0, "") for status, _, err in shown)
    assert [re.search(r"shard . of 3: (\d+) of the grid's 16 cells", out)[1] for _, out, _ in shown] == ["6", "5", "5"]
    counts = [re.search(r"(\d+) cells, (\d+) to run, (\d+) done already", out).groups() for _, out, _ in shown]
    assert [sum(int(count[k]) for count in counts) for k in range(3)] == [16, 8, 8]
    status, out, _ = flowbench(*arguments, "--shard", "100/100")
    assert (status, "0 cells, 0 to run" in out) == (0, True)


def test_another_config_is_another_variant(grid, flowbench, no_workers) -> None:
    arguments, _ = grid
    for change in (["--set", "td3.lr=1e-3"], ["--steps", "200"]):
        _, out, _ = flowbench(*arguments, *change, "--dry-run")
        assert re.search(r"8 cells, [48] to run, [04] done already", out)
    _, out, _ = flowbench(*arguments, "--set", "td3.lr=1e-3", "--dry-run")
    assert "4 to run, 4 done" in out  # the other algorithm's cells are as they were


def test_force_trains_again_and_keeps_the_old_run(grid, flowbench) -> None:
    arguments, results = grid
    suite = arguments[arguments.index("--suite") + 1]
    (folder,) = (path for path in records.folders(results) if re.search(r"balance/td3/.*seed-0$", str(path)))
    rows = without_clock(folder / "evals.csv")
    started = records.read_run(folder).started
    try:
        status, out, _ = flowbench("run", "--suite", suite, "--task", "cartpole-balance", "--algo", f"td3[{TINY}]",
                                   "--seeds", "1", "--results", results, "--device", "cpu", "--jobs", "2",
                                   "--force")  # fmt: skip
        assert status == 0
        assert "1 cell, 1 to run, 0 done already" in out
        assert "1 done in" in out
        (aside,) = folder.parent.glob("replaced-*-seed-0")
        assert records.read_run(aside).started == started
        assert without_clock(aside / "evals.csv") == rows
        assert without_clock(folder / "evals.csv") == rows
    finally:
        for aside in folder.parent.glob("replaced-*"):
            for path in aside.iterdir():
                path.unlink()
            aside.rmdir()


# Grid files


def test_grid_file_holds_the_options(grid, flowbench, no_workers, tmp_path: Path) -> None:
    arguments, results = grid
    suite = arguments[arguments.index("--suite") + 1]
    path = tmp_path / "grid.yaml"
    path.write_text(
        f"suite: {suite}\nalgo: ['td3[{TINY}]', '{EXAMPLE}[{TINY}]']\ntask: cartpole-balance\nseeds: 0-2\n"
        "set: {td3.lr: 3e-4, ddpg.noise: 0.2}\n"
    )
    _, out, err = flowbench("run", "--file", path, "--results", results, "--dry-run")
    assert err == ""
    assert "6 cells, 2 to run, 4 done already" in out
    _, out, _ = flowbench("run", "--file", path, "--results", results, "--dry-run", "--seeds", "1")
    assert "2 cells, 0 to run, 2 done already" in out  # the command line wins
    path.write_text(f"suite: {suite}\nalgo: td3[{TINY}]\nseeds: [1]\nsteps: 300\n")
    _, out, _ = flowbench("run", "--file", path, "--results", results, "--dry-run")
    assert "2 cells, 0 to run, 2 done already" in out
    path.write_text(f"suite: {suite}\nalgo: td3[{TINY}]\nseeds: ['0-1']\n")
    _, out, _ = flowbench("run", "--file", path, "--results", results, "--dry-run")
    assert "4 cells, 0 to run, 4 done already" in out


# Algorithms from elsewhere


def point_to(monkeypatch: pytest.MonkeyPatch, **targets: str) -> None:
    points = [EntryPoint(name=name, value=target, group="flowbench.algos") for name, target in targets.items()]
    monkeypatch.setattr(algos.registry, "entry_points", lambda group: points)


@pytest.mark.slow
def test_algorithm_of_an_installed_package(flowbench, tmp_path: Path, monkeypatch) -> None:
    point_to(monkeypatch, mine="example_algorithm:DDPG")
    status, out, err = flowbench("run", "--suite", write_suite(tmp_path), "--task", "pendulum-swingup", "--algo",
                                 f"mine[{TINY}]", "--seeds", "1", "--results", tmp_path / "results", "--quiet",
                                 "--device", "cpu")  # fmt: skip
    assert (status, out, err) == (0, "", "")
    (folder,) = records.folders(tmp_path / "results")
    assert records.read_run(folder).algo.target == "example_algorithm:DDPG"
    assert records.read_run(folder).status == "done"
    _, out, _ = flowbench("list", "algos")
    assert "mine" in out
    assert "Lillicrap" in out


@pytest.mark.parametrize("target", ["no_such_package.module:Agent", "no_such_module:Agent"])
def test_broken_package_is_one_line(flowbench, monkeypatch, target: str) -> None:
    point_to(monkeypatch, mine=target)
    status, _, err = flowbench("list", "algos")
    assert status in (0, 2)
    assert err.count("\n") <= 1


# Failing


@pytest.mark.slow
def test_failed_cell_is_named_with_its_log(flowbench, tmp_path: Path) -> None:
    spec = write_algorithm(tmp_path, "Breaks", "raise RuntimeError('went wrong')")
    arguments = ["run", "--suite", write_suite(tmp_path), "--task", "pendulum-swingup", "--algo", spec, "--seeds",
                 "1", "--results", tmp_path / "results", "--device", "cpu"]  # fmt: skip
    status, out, err = flowbench(*arguments, "--quiet")
    (folder,) = records.folders(tmp_path / "results")
    assert (status, out) == (1, "")
    assert err == (
        f"flowbench: breaks pendulum-swingup seed 0 failed: RuntimeError: went wrong; log: {folder / 'log.txt'}\n"
    )
    assert "went wrong" in (folder / "log.txt").read_text()
    _, out, _ = flowbench("status", "--results", tmp_path / "results")
    assert "1 failed (0)" in out
    _, out, _ = flowbench(*arguments, "--dry-run")
    assert "1 to run" in out


@pytest.mark.parametrize("fail_fast", [True, False])
def test_fail_fast(flowbench, tmp_path: Path, script, fail_fast: bool) -> None:
    script.usual = "sys.exit(3)"
    options = ["--fail-fast"] if fail_fast else []
    status, out, err = flowbench("run", "--suite", write_suite(tmp_path), "--algo", "td3", "--seeds", "2", "--jobs",
                                 "1", "--results", tmp_path / "results", *options)  # fmt: skip
    assert status == 1
    assert len(script.started) == (1 if fail_fast else 4)
    assert ("1 failed, 3 skipped" in out) == fail_fast
    assert err.count("failed: the worker exited with 3") == len(script.started)


def test_cell_that_another_process_trains_is_skipped(flowbench, tmp_path: Path, no_workers) -> None:
    suite = write_suite(tmp_path)
    arguments = ["run", "--suite", suite, "--task", "pendulum-swingup", "--algo", "td3", "--seeds", "1",
                 "--results", tmp_path]  # fmt: skip
    (cell,) = expand(suite, ["td3"], "1", tasks=["pendulum-swingup"])
    put_run(tmp_path, cell, "running")
    with lock.hold(tmp_path / cell.path):
        status, out, _ = flowbench(*arguments)
        assert status == 0
        assert "0 to run, 0 done already, 1 running in another process" in out
        _, out, _ = flowbench("status", "--results", tmp_path)
        assert "1 running" in out
    _, out, _ = flowbench("status", "--results", tmp_path)
    assert "1 stopped (0)" in out


def test_missing_package_of_a_task_source_is_reported_first(flowbench, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "humanoid_bench", None)  # as if it were not installed
    arguments = ["run", "--suite", "humanoid-bench", "--algo", "td3", "--seeds", "1", "--results", tmp_path / "r"]
    status, out, err = flowbench(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "pip install" in err
    assert not (tmp_path / "r").exists()
    status, out, _ = flowbench(*arguments, "--dry-run")
    assert status == 0
    assert "before this can run: h1 tasks need HumanoidBench" in out


# An output that cannot be written to


@pytest.mark.slow
@pytest.mark.parametrize("output", ["closed pipe", "/dev/full"])
def test_grid_is_trained_although_its_output_cannot_be_written(tmp_path: Path, output: str) -> None:
    results = tmp_path / "results"
    arguments = ["run", "--suite", write_suite(tmp_path), "--algo", f"td3[{TINY}]", "--seeds", "2", "--jobs", "1",
                 "--task", "pendulum-swingup", "--results", str(results), "--device", "cpu"]  # fmt: skip
    full = open(output, "w") if output == "/dev/full" else None  # noqa: SIM115 (closed below)
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "flowbench.cli", *arguments],
        stdout=full or subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    if full:
        full.close()
    if process.stdout:
        process.stdout.readline()
        process.stdout.close()
    assert process.wait(240) == 0 or full
    assert [records.status(folder) for folder in records.folders(results)] == ["done", "done"]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["list", "suites"], ["list", "params", "sac"]])
def test_closed_pipe_is_not_a_failure(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "flowbench.cli", *arguments]
    process = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, check=False)
    os.close(write)
    assert (process.returncode, process.stderr) == (0, "")
