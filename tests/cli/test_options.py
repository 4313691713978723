"""The form of the options: how the help shows them, and what they accept."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import TINY, write_suite

import flowbench as package

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
COMMANDS = ["run", "status", "watch", "report", "compare", "import", "export", "eval", "paper", "doctor"]


@pytest.mark.parametrize("command", [*([each] for each in COMMANDS), ["list", "params"], ["list"], []])
def test_switches_are_shown_without_a_value(flowbench, command: list[str]) -> None:
    status, out, _ = flowbench(*command, "--help")
    assert status == 0
    assert not re.search(r"<bool>|BOOL", out)
    assert "--help" in out


def test_the_options_of_run_are_in_named_groups(flowbench) -> None:
    _, out, _ = flowbench("run", "--help")
    titles = re.findall(r"─ ([\w ]+) ─", out)
    assert titles == ["Options", "What to train", "How long", "What to keep", "Where and how fast", "What to show"]
    groups = dict(zip(titles, re.split(r"─ [\w ]+ ─", out)[1:], strict=True))
    for title, options in {
        "What to train": ("--suite", "--algo", "--task", "--seeds", "--set", "--file", "--shard", "--force"),
        "How long": ("--steps", "--timeout", "--retries", "--fail-fast"),
        "Where and how fast": ("--device", "--gpus", "--per-gpu", "--jobs", "--threads", "--stack", "--precision",
                               "--engine", "--address"),
        "What to keep": ("--results", "--checkpoint-every", "--keep-checkpoints", "--keep-weights", "--log"),
        "What to show": ("--dry-run", "--calibrate", "--quiet"),
        "Options": ("--help",),
    }.items():  # fmt: skip
        assert [option for option in options if option not in groups[title]] == []


@pytest.mark.parametrize("seeds", ["x", "0", "5-3", "1,1", "auto:x"])
def test_a_bad_seed_is_reported_before_anything_heavy_is_imported(seeds: str) -> None:
    code = (
        "import sys; from flowbench import cli; status = cli._status(sys.argv[1:])\n"
        "print(status, sorted({'torch', 'pandas', 'dm_control', 'gymnasium', 'joblib'} & set(sys.modules)))"
    )
    arguments = ["run", "--suite", "quick", "--algo", "sac", "--seeds", seeds]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=ENVIRONMENT,
                          timeout=60, check=False)  # fmt: skip
    assert done.stdout.splitlines()[-1] == "2 []", done.stdout + done.stderr
    assert seeds in done.stderr


@pytest.mark.parametrize("tasks", [["pendulum-swingup,cartpole-balance"], ["pendulum-swingup", "cartpole-balance"]])
def test_tasks_are_listed_as_algorithms_are(flowbench, tmp_path: Path, tasks: list[str]) -> None:
    suite = write_suite(tmp_path, tasks=["cartpole-balance", "pendulum-swingup", "cheetah-run"])
    arguments = ["run", "--suite", suite, "--algo", f"td3[{TINY}]", "--seeds", "1", "--dry-run"]
    arguments += [part for task in tasks for part in ("--task", task)]
    status, out, _ = flowbench(*arguments, "--results", tmp_path / "results")
    assert status == 0
    assert "2 cells" in out
    assert "cheetah-run" not in out
    status, _, err = flowbench(*arguments, "--task", "cheetah-run,cartpole-swing", "--results", tmp_path / "results")
    assert status == 2
    assert "cartpole-swing" in err


def test_gpu_is_another_word_for_cuda(flowbench, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("flowbench.common.system.gpus", list)
    suite = write_suite(tmp_path, tasks=["pendulum-swingup"])
    arguments = ["run", "--suite", suite, "--algo", f"td3[{TINY}]", "--dry-run", "--results", tmp_path, "--device"]
    cuda, gpu = (flowbench(*arguments, device) for device in ("cuda", "gpu"))
    assert cuda == gpu
    assert cuda[0] == 2


def test_the_package_is_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "flowbench", "--version"], capture_output=True, text=True,
                          env=ENVIRONMENT, timeout=60, check=False)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"flowbench {package.__version__}\n")
