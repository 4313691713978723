"""The commands that read a results folder: `status`, `report` and `compare`."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from fakes import TINY, make_cell, put_run
from msgspec.structs import replace

from flowbench.plan.expand import expand
from flowbench.store import records


def test_status_counts_the_cells(grid, flowbench) -> None:
    _, results = grid
    status, out, err = flowbench("status", "--results", results)
    assert (status, err) == (0, "")
    assert "8 done" in out
    assert out.count("2 done") == 4
    for word in ("mini", "td3", "ddpg", "cartpole-balance", "pendulum-swingup"):
        assert word in out
    _, out, _ = flowbench("status", "--results", results, "--algo", "ddpg")
    assert "4 done" in out
    assert "td3" not in out


@pytest.mark.parametrize("format", ["table", "markdown", "latex", "csv", "json"])
def test_a_report_in_every_format(grid, flowbench, format: str) -> None:
    _, results = grid
    status, out, err = flowbench("report", "--results", results, "--format", format, "--reps", 50)
    assert (status, err) == (0, "")
    for word in ("cartpole-balance", "pendulum-swingup", "td3", "ddpg"):
        assert word in out
    if format == "json":
        assert isinstance(json.loads(out), dict)
    elif format == "csv":
        assert len(list(csv.reader(io.StringIO(out)))) > 4
    elif format == "latex":
        assert out.count(r"\toprule") >= 3
    elif format == "markdown":
        assert re.search(r"^\|[-:| ]+\|$", out, re.MULTILINE)


def test_two_algorithms_are_compared(grid, flowbench) -> None:
    _, results = grid
    status, out, err = flowbench("compare", "td3", "ddpg", "--results", results, "--reps", 50)
    assert (status, err) == (0, "")
    assert "on 0 of 2 tasks" in " ".join(out.split())
    assert "too few seeds on 2." in " ".join(out.split())
    status, out, _ = flowbench("compare", "td3", "ddpg", "--results", results, "--reps", 50, "--format", "json")
    assert json.loads(out)["suites"][0]["overall"]["tasks"] == 2


def test_figures_are_drawn_where_asked(grid, flowbench, tmp_path: Path) -> None:
    _, results = grid
    status, _, err = flowbench("report", "--results", results, "--reps", 50, "--figures", tmp_path / "new", "--thin")
    assert status == 0
    drawn = [Path(line.removeprefix("drew ")) for line in err.splitlines()]
    assert {path.suffix for path in drawn} == {".svg", ".pdf", ".png"}
    assert all(path.stat().st_size for path in drawn)
    assert "mini-time.svg" in {path.name for path in drawn}
    (tmp_path / "file").touch()
    status, _, err = flowbench("report", "--results", results, "--reps", 50, "--figures", tmp_path / "file")
    assert status == 2
    assert "--figures" in err


def test_report_of_an_earlier_step(grid, flowbench) -> None:
    _, results = grid
    assert flowbench("report", "--results", results, "--step", 150, "--reps", 50)[0] == 0
    assert flowbench("report", "--results", results, "--suite", "mini", "--algo", "td3", "--reps", 50)[0] == 0


def test_unreadable_run_is_reported_and_left_out(grid, flowbench, tmp_path: Path) -> None:
    put_run(tmp_path, make_cell())
    broken = tmp_path / make_cell(seed=1).path
    broken.mkdir()
    (broken / "run.json").write_text("[]")
    status, out, err = flowbench("status", "--results", tmp_path)
    assert status == 0
    assert "1 done" in out
    assert err.startswith(f"flowbench: left out: {broken}")
    assert err.count("\n") == 1


def test_short_runs_do_not_change_the_step_of_the_report(grid, flowbench, tmp_path: Path) -> None:
    _, results = grid
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    suite = expand(str(results.parent / "mini.yaml"), [f"td3[{TINY}]"], "1", steps=150)
    for cell in suite:
        (put_run(copy, cell) / "evals.csv").write_text("step,mean\n150,1\n")
    _, out, _ = flowbench("report", "--results", copy)
    assert "at step 300 of 300" in out
    assert "steps=150] is left out: it trains for 150 steps only (include it with --step 150)" in " ".join(out.split())
    _, out, _ = flowbench("report", "--results", copy, "--step", "150")
    assert "left out" not in out


def test_runs_of_different_software_are_named(grid, flowbench, tmp_path: Path) -> None:
    _, results = grid
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    folder = next(records.folders(copy))
    run = records.read_run(folder)
    records.write_run(folder, replace(run, versions={**run.versions, "torch": "1.0"}))
    _, out, _ = flowbench("report", "--results", copy)
    said = " ".join(out.split())
    here = f"torch {run.versions['torch']}"
    assert f"its runs differ in software, device or threads: {here} | {here}; then torch 1.0" in said
    assert "numpy" not in said  # what they have in common
    records.write_run(folder, replace(run, threads=run.threads + 1))
    _, out, _ = flowbench("report", "--results", copy)
    assert f"with {run.threads + 1} threads" in " ".join(out.split())
    _, out, _ = flowbench("report", "--results", results)
    assert "differ in software" not in out


def test_reports_accept_the_names_that_run_does(grid, flowbench) -> None:
    arguments, results = grid
    suite = arguments[arguments.index("--suite") + 1]
    status, out, _ = flowbench("status", "--results", results, "--suite", suite, "--algo", "td3,ddpg")
    assert (status, "8 done" in out) == (0, True)
    status, _, err = flowbench("report", "--results", results, "--algo", "tdd3")
    assert status == 2
    assert "did you mean 'td3'" in err
