"""Mistakes: one line on stderr, exit code 2, nothing on stdout, nothing started.

How values and files are parsed is tested in tests/algos, tests/plan, tests/schedule and tests/common.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import make_cell, make_suite, put_run, write_suite


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files that the mistakes below name."""
    write_suite(tmp_path)
    write_suite(tmp_path, "bad-task", tasks=["cartpole-balnce"])
    write_suite(tmp_path, "bad-override", overrides={"td3": {"hiden": 1}})
    files = {
        "file": "a file",
        "notes.txt": "no algorithm",
        "fails.py": "raise RuntimeError('at import')",
        "leaves.py": "import sys; sys.exit(0)",
        "empty.yml": "",
        "list.yml": "- suite\n",
        "key.yml": "suit: quick\n",
        "type.yml": "suite: quick\nalgo: 3\n",
        "steps.yml": "suite: quick\nalgo: td3\nsteps: many\n",
        "seeds.yml": "suite: quick\nalgo: td3\nseeds: 1.5\n",
        "noseeds.yml": "suite: quick\nalgo: td3\nseeds: []\n",
        "date.yml": "suite: quick\nalgo: td3\nseeds: 2024-13-45\n",
        "yaml.yml": "suite: [quick\nalgo: }\n",
        "twice.yml": "suite: quick\nalgo: td3\nalgo: sac\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


GRID = ["run", "--suite", "{}/mini.yaml", "--algo", "td3", "--results", "{}/results"]

MISTAKES = [
    # the command itself
    (["rnu"], ["rnu", "run"]),
    (["run", "--sede", "1"], ["--sede", "--seeds"]),
    (["run", "--seeds"], ["--seeds"]),
    (["run", "extra"], ["extra"]),
    (["list", "suite"], ["suite", "suites"]),
    # what to run
    (["run"], ["--suite"]),
    (["run", "--suite", "quick"], ["--algo"]),
    (["run", "--suite", "", "--algo", "td3"], ["--suite"]),
    (["run", "--suite", "dmc-hrad", "--algo", "td3"], ["dmc-hrad", "dmc-hard"]),
    (["run", "--suite", "{}/none.yaml", "--algo", "td3"], ["none.yaml"]),
    (["run", "--suite", "{}/bad-task.yaml", "--algo", "td3"], ["cartpole-balnce", "cartpole-balance"]),
    (["run", "--suite", "{}/bad-override.yaml", "--algo", "td3"], ["hiden", "hidden", "bad-override"]),
    ([*GRID, "--task", "cartpole-balanc"], ["cartpole-balanc", "'cartpole-balance'"]),
    # algorithms
    ([*GRID, "--algo", "flowlr"], ["flowlr", "'flowrl'"]),
    ([*GRID, "--algo", "sac[lr=1"], ["sac[lr=1"]),
    ([*GRID, "--algo", "{}/none.py:Mine"], ["none.py"]),
    ([*GRID, "--algo", "{}/fails.py:Mine"], ["fails.py", "at import"]),
    ([*GRID, "--algo", "{}/leaves.py:Mine"], ["leaves.py"]),
    ([*GRID, "--algo", "{}/notes.txt:Mine"], ["notes.txt"]),
    # settings
    ([*GRID, "--set", "lr"], ["'lr'", "key=value"]),
    ([*GRID, "--set", "td3.hiden=8"], ["hiden", "'hidden'"]),
    # numbers
    ([*GRID, "--seeds", "five"], ["five"]),
    ([*GRID, "--seeds", "auto"], ["'auto'", "auto:20"]),
    ([*GRID, "--seeds", "auto:1"], ["'auto:1'", "auto:20"]),
    ([*GRID, "--seeds", "auto:20"], ["auto:20", "two", "--algo"]),
    ([*GRID, "--algo", "sac", "--seeds", "auto:20", "--shard", "1/2"], ["--shard", "--seeds auto"]),
    ([*GRID, "--threads", "99999999999"], ["--threads", "99999999999", "1,024"]),
    (["status", "--results", "{}/" + "x" * 300], ["xxx"]),
    ([*GRID, "--steps", "0"], ["--steps", "0"]),
    ([*GRID, "--jobs", "two"], ["--jobs", "two"]),
    ([*GRID, "--retries", "-1"], ["--retries", "-1", "at least 0"]),
    ([*GRID, "--timeout", "soon"], ["--timeout", "soon", "90m"]),
    ([*GRID, "--shard", "9/8"], ["--shard", "9/8", "1/8, ..., 8/8"]),
    # where
    ([*GRID, "--device", "cdua"], ["cdua", "'cuda'"]),
    ([*GRID, "--device", "cpu", "--gpus", "0"], ["--gpus '0'", "--device cpu"]),
    ([*GRID, "--device", "cpu", "--per-gpu", "2"], ["--per-gpu", "--jobs"]),
    ([*GRID, "--device", "cpu", "--per-gpu", "auto"], ["--per-gpu", "--jobs"]),
    ([*GRID, "--per-gpu", "none"], ["--per-gpu", "'none'"]),
    ([*GRID, "--threads", "0"], ["--threads", "'0'"]),
    ([*GRID, "--results", "{}/file"], ["file"]),
    ([*GRID, "--results", "{}/file/below"], ["file/below"]),
    # grid files
    (["run", "--file", "{}/none.yml"], ["none.yml"]),
    (["run", "--file", "{}"], ["cannot be read"]),
    (["run", "--file", "{}/empty.yml"], ["empty.yml"]),
    (["run", "--file", "{}/list.yml"], ["list.yml", "list"]),
    (["run", "--file", "{}/key.yml"], ["key.yml", "'suit'", "'suite'"]),
    (["run", "--file", "{}/type.yml"], ["type.yml", "algo"]),
    (["run", "--file", "{}/steps.yml"], ["steps.yml", "steps", "many"]),
    (["run", "--file", "{}/seeds.yml"], ["seeds.yml", "seeds"]),
    (["run", "--file", "{}/noseeds.yml", "--dry-run"], ["seeds"]),
    (["run", "--file", "{}/date.yml"], ["date.yml"]),
    (["run", "--file", "{}/yaml.yml"], ["yaml.yml", "YAML"]),
    (["run", "--file", "{}/twice.yml", "--dry-run"], ["twice.yml", "algo"]),
    # looking
    (["status", "--results", "{}/none"], ["none"]),
    (["status", "--results", "{}/file"], ["file"]),
    (["status", "--results", "{}/runs", "--suite", "mni"], ["'mni'", "mini"]),
    (["report", "--results", "{}/none"], ["none"]),
    (["report", "--results", "{}/runs", "--algo", "tdd3"], ["'tdd3'", "td3"]),
    (["report", "--results", "{}/runs", "--format", "markdwn"], ["markdwn", "'markdown'"]),
    (["report", "--results", "{}/runs", "--step", "0"], ["--step"]),
    (["report", "--results", "{}/runs", "--step", "7"], ["7"]),
    (["report", "--results", "{}/runs", "--reps", "0"], ["--reps"]),
    (["report", "--results", "{}/runs", "--seed", "-1"], ["--seed"]),
    (["report", "--results", "{}/runs", "--thin"], ["--thin", "--figures"]),
    (["compare", "td3", "tdd3", "--results", "{}/runs"], ["'tdd3'", "'td3'"]),
    (["compare", "td3", "td3", "--results", "{}/runs"], ["'td3'", "itself"]),
    (["compare", "td3", "ddpg", "--results", "{}/runs", "--format", "csv"], ["'csv'", "markdown"]),
    (["list", "tasks"], ["SUITE"]),
    (["list", "tasks", "dmc-esy"], ["dmc-esy", "'dmc-easy'"]),
    (["list", "params", "flowlr"], ["flowlr", "'flowrl'"]),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_mistake_is_one_line(flowbench, folder: Path, no_workers, arguments: list[str], words: list[str]) -> None:
    cell = make_cell(suite=make_suite(steps=40, every=20))
    (put_run(folder / "runs", cell) / "evals.csv").write_text("step,mean\n20,-100\n40,-50\n")
    status, out, err = flowbench(*(argument.replace("{}", str(folder)) for argument in arguments))
    assert (status, out) == (2, "")
    assert err.startswith("flowbench: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for word in words:
        assert word in err
    assert not (folder / "results").exists()
