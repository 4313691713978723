"""Runs of an algorithm whose code was edited afterwards: named, and neither counted nor resumed without a word."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import TINY, put_run, write_algorithm, write_suite
from msgspec.structs import replace

import algos
from flowbench.plan.expand import expand
from flowbench.store import checkpoint, records

CHOICES = (
    "flowbench: runs of other code are neither counted nor resumed: restore the code, name another folder with "
    "--results, train them again with --force (the old runs are kept aside), remove them (flowbench results rm), or "
    "accept them with --any-code\n"
)


@pytest.fixture
def own(tmp_path: Path) -> tuple[list[str], Path]:
    """Two finished runs of an algorithm's file, and the module beside it that the file imports."""
    helper = tmp_path / "beside.py"
    helper.write_text("SCALE = 1.0\n")
    head = f"sys.path.append({str(tmp_path)!r})\nimport beside"
    spec = f"{write_algorithm(tmp_path, 'Own', 'pass', head)}[{TINY}]"
    suite = write_suite(tmp_path, tasks=["pendulum-swingup"])
    for cell in expand(suite, [spec], "2"):
        put_run(tmp_path / "results", cell)
    arguments = ["run", "--suite", suite, "--algo", spec, "--seeds", "2", "--results", str(tmp_path / "results")]
    return arguments, helper


def test_finished_runs_of_other_code_are_not_done(own, flowbench, no_workers) -> None:
    arguments, helper = own
    assert flowbench(*arguments)[:2] == (0, "2 cells, 0 to run, 2 done already\n")
    helper.write_text("SCALE = 1.0  # a comment changes nothing\n")
    assert flowbench(*arguments)[:2] == (0, "2 cells, 0 to run, 2 done already\n")
    helper.write_text("SCALE = 0.0\n")
    before = {path: path.read_bytes() for path in Path(arguments[-1]).rglob("*") if path.is_file()}
    label = records.read_run(next(records.folders(Path(arguments[-1])))).algo.label
    said = f"flowbench: {label}: its code has changed since 2 finished runs were trained\n"
    for more in ([], ["--dry-run"], ["--quiet"]):
        assert flowbench(*arguments, *more) == (2, "", said + CHOICES)
    assert flowbench(*arguments, "--any-code") == (0, "2 cells, 0 to run, 2 done already\n", said)
    status, out, err = flowbench(*arguments, "--force", "--dry-run")
    assert (status, err) == (0, "")
    assert "2 cells, 2 to run, 0 done already" in out
    assert before == {path: path.read_bytes() for path in Path(arguments[-1]).rglob("*") if path.is_file()}


def test_an_interrupted_run_of_other_code_is_not_resumed(own, flowbench, monkeypatch, no_workers) -> None:
    arguments, helper = own
    _, second = records.folders(Path(arguments[-1]))
    records.write_run(second, replace(records.read_run(second), status="stopped"))
    helper.write_text("SCALE = 0.0\n")
    monkeypatch.setattr(checkpoint, "steps", lambda folder: [150] if folder == second else [])
    status, out, err = flowbench(*arguments)
    assert (status, out) == (2, "")
    assert ": its code has changed since 1 finished run and 1 interrupted run were trained\n" in err
    monkeypatch.setattr(checkpoint, "steps", lambda folder: [])  # then it starts over, and only the finished run counts
    assert ": its code has changed since 1 finished run was trained\n" in flowbench(*arguments)[2]


def test_runs_without_a_digest_are_accepted(own, flowbench, no_workers) -> None:
    arguments, helper = own
    for folder in records.folders(Path(arguments[-1])):
        run = json.loads((folder / "run.json").read_text())
        del run["algo"]["code"]
        text = json.dumps(run, indent=2) + "\n"
        (folder / "run.json").write_text(text)
        records.write_run(folder, records.read_run(folder))
        assert (folder / "run.json").read_text() == text
    helper.write_text("SCALE = 0.0\n")
    assert flowbench(*arguments) == (0, "2 cells, 0 to run, 2 done already\n", "")


@pytest.mark.slow
def test_an_edit_of_a_built_in_algorithm_is_noticed(tmp_path: Path) -> None:
    """As a user does it: in the files of flowbench, with a run in between."""
    for name in ("algos", "flowbench", "suites"):
        shutil.copytree(Path(algos.__file__).parents[1] / name, tmp_path / name)
    results, environment = tmp_path / "results", {**os.environ, "PYTHONPATH": str(tmp_path)}

    def flowbench(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "flowbench.cli", *arguments, "--results", str(results)],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    run = ["run", "--env", "Pendulum-v1", "--steps", "60", "--algo", f"sac[{TINY}]", "--seeds", "1", "--device", "cpu",
           "--keep-weights"]  # fmt: skip
    status, _, err = flowbench(*run)
    assert status == 0, err
    (folder,) = records.folders(results)
    content = (folder / "run.json").read_bytes()
    path = tmp_path / "algos" / "sac.py"
    text = path.read_text()
    assert text.count("return torch.tanh(mean)") == 1
    path.write_text(text.replace("return torch.tanh(mean)", "return 0 * torch.tanh(mean)"))
    status, out, err = flowbench(*run)
    assert (status, out) == (2, "")
    assert "its code has changed since 1 finished run was trained\n" in err
    assert (folder / "run.json").read_bytes() == content
    status, _, err = flowbench("eval", str(folder), "--episodes", "1")
    said = f"flowbench: the code of sac has changed since '{folder}/weights.safetensors' was trained\n"
    assert (status, err) == (0, said)
    status, out, _ = flowbench("verify", str(folder))
    assert status == 1
    assert "code of the algorithm is " in out
    path.write_text(text)
    assert "0 to run, 1 done already" in flowbench(*run)[1]
