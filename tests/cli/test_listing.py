"""Help, version and lists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import EXAMPLE, write_suite

import flowbench as package


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["--version"], ["list", "suites"], ["list", "algos"]]
)
def test_printing_commands_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from flowbench import cli; status = cli._status(sys.argv[1:])\n"
        "heavy = {'torch', 'pandas', 'mujoco', 'dm_control', 'gymnasium', 'scipy', 'matplotlib', 'joblib'}\n"
        "print(status, sorted(heavy & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment,
                          timeout=60, check=False)  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr
    assert len(done.stdout.splitlines()) > 1


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["-h"], ["run", "--help"], ["status", "-h"], ["report", "-h"], ["list", "--help"],
     ["list", "tasks", "-h"], ["list", "params", "-h"]],
)  # fmt: skip
def test_help(flowbench, arguments: list[str]) -> None:
    status, out, err = flowbench(*arguments)
    assert (status, err) == (0, "")
    assert "Usage: " in out


def test_every_option_of_run_is_in_its_help(flowbench) -> None:
    _, out, _ = flowbench("run", "--help")
    for option in ("--suite", "--task", "--algo", "--seeds", "--steps", "--set", "--file", "--results", "--device",
                   "--gpus", "--per-gpu", "--jobs", "--threads", "--dry-run", "--calibrate",
                   "--force", "--fail-fast", "--quiet", "--retries", "--timeout", "--shard"):  # fmt: skip
        assert option in out


def test_the_version(flowbench) -> None:
    assert flowbench("--version") == (0, f"flowbench {package.__version__}\n", "")


def test_listing_suites_and_tasks(flowbench, tmp_path: Path) -> None:
    status, out, _ = flowbench("list", "suites")
    assert status == 0
    for name in ("quick", "dmc-hard", "humanoid-bench"):
        assert re.search(rf"^\s*{name}\s", out, re.MULTILINE)
    status, out, _ = flowbench("list", "tasks", "dmc-hard")
    assert status == 0
    assert re.search(r"^\s*dog-run\s+dm_control\s+0\s+1000\s*$", out, re.MULTILINE)
    assert "pendulum-swingup" in flowbench("list", "tasks", write_suite(tmp_path))[1]


def test_listing_algorithms_and_their_hyperparameters(flowbench) -> None:
    status, out, _ = flowbench("list", "algos")
    assert status == 0
    for name in ("flowrl", "sac", "td3", "qvpo"):
        assert re.search(rf"^\s*{name}\s+\S", out, re.MULTILINE)
    status, out, _ = flowbench("list", "params", "flowrl")
    assert status == 0
    assert re.search(r"^\s*flow_steps\s+int\s+1\s+integration steps", out, re.MULTILINE)
    assert re.search(r"^\s*weights\s+batch or sample\s+batch\s", out, re.MULTILINE)
    assert re.search(r"^\s*gamma\s+float\s+0.99\s+discount factor", out, re.MULTILINE)
    assert re.search(r"^\s*noise\s+float\s+0.2\s", flowbench("list", "params", EXAMPLE)[1], re.MULTILINE)


@pytest.mark.parametrize("arguments", [[], ["list"]])
def test_without_a_command_the_commands_are_shown(flowbench, arguments: list[str]) -> None:
    status, out, err = flowbench(*arguments)
    assert status == 2
    assert "Commands" in out
    assert err.count("\n") == 1
