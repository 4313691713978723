"""What `flowbench new` writes works as it is, and nothing is overwritten."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from fakes import write_suite

import algos
from flowbench import check
from flowbench.plan import templates
from flowbench.store import records


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def command(out: str) -> list[str]:
    """The command that is printed last, without the name of the program."""
    words = shlex.split(out.splitlines()[-1])
    assert words[0] == "flowbench"
    return words[1:]


@pytest.mark.parametrize(
    ("name", "file", "label"),
    [("my_agent", "my_agent.py", "MyAgent"), ("CrossQ", "crossq.py", "CrossQ"), ("mpo2", "mpo2.py", "Mpo2")],
)
def test_a_new_algorithm_is_a_file_that_is_tried_without_a_change(
    flowbench, script, name: str, file: str, label: str
) -> None:
    status, out, err = flowbench("new", "algo", name)
    assert (status, err) == (0, "")
    assert out.startswith(f"wrote {file}; it works as it is:\n")
    assert f"{file}:{label}" in out
    assert "Template" not in Path(file).read_text()
    status, out, err = flowbench(*command(out), "--task", "cartpole-balance", "--dry-run")
    assert (status, err) == (0, "")
    assert "tried: 1 variant and 1 task work" in out
    summary, paper = algos.find(f"{file}:{label}").about()
    assert summary.startswith(f"{label}: ")
    assert paper


@pytest.mark.slow
def test_a_new_algorithm_trains_beside_another(flowbench, tmp_path: Path) -> None:
    assert flowbench("new", "algo", "mine")[0] == 0
    suite = write_suite(tmp_path, tasks=["pendulum-swingup"])
    tiny = "hidden=8,batch_size=4,random_steps=20"
    status, _, err = flowbench("run", "--suite", suite, "--algo", f"mine.py:Mine[{tiny}],td3[{tiny}]", "--seeds", "1",
                               "--device", "cpu")  # fmt: skip
    assert (status, err) == (0, "")
    runs = [records.read_run(folder) for folder in records.folders(Path("results"))]
    assert {run.algo.name: run.status for run in runs} == {"mine": "done", "td3": "done"}


def test_a_new_algorithm_passes_every_check(flowbench) -> None:
    assert flowbench("new", "algo", "mine")[0] == 0
    variant = check.find("mine.py:Mine[hidden=8]")
    assert all(finding.passed for finding in check.check(variant.entry.load(), variant.config))


def test_a_new_suite_is_tried_without_a_change(flowbench, script) -> None:
    status, out, err = flowbench("new", "suite", "my-suite")
    assert (status, err) == (0, "")
    assert out.startswith("wrote my-suite.yaml; it works as it is:\n")
    status, out, err = flowbench(*command(out), "--dry-run")
    assert (status, err) == (0, "")
    assert "4 cells, 4 to run" in out
    assert "tried: 1 variant and 2 tasks work" in out


@pytest.mark.parametrize(("kind", "file"), [("algo", "mine.py"), ("suite", "mine.yaml")])
def test_nothing_is_overwritten(flowbench, kind: str, file: str) -> None:
    assert flowbench("new", kind, "mine")[0] == 0
    Path(file).write_text("my work")
    assert flowbench("new", kind, "mine") == (
        2, "", f"flowbench: '{file}' exists already, and nothing is overwritten: choose another name\n"
    )  # fmt: skip
    assert Path(file).read_text() == "my work"


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        *[("algo", name, "is not a name of an algorithm") for name in ("a b", "9x", "../x", "x.py", "class", "_", "")],
        *[("algo", name, "there is an algorithm 'sac' already") for name in ("sac", "SAC", "s_ac")],
        *[("algo", name, "could hide the module") for name in ("torch", "random", "algos", "Flowbench")],
        *[("algo", name, "the file imports a class") for name in ("Agent", "agent", "Tensor", "TwinCritic")],
        *[("suite", name, "is not a name of a suite") for name in ("a b", "Mine", "../x", "x.yaml", "")],
        ("suite", "quick", "there is a suite 'quick' already"),
    ],
)
def test_a_bad_name_is_one_line_and_writes_nothing(flowbench, kind: str, name: str, said: str) -> None:
    status, out, err = flowbench("new", kind, name)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not list(Path().iterdir())


def test_every_hyperparameter_of_the_new_algorithm_has_a_comment(flowbench) -> None:
    flowbench("new", "algo", "mine")
    _, out, _ = flowbench("list", "params", "mine.py:Mine")
    for name in ("hidden", "lr", "tau", "temperature"):
        assert re.search(rf"^\s*{name}\s+(int|float)\s+\S+\s+\w+", out, re.MULTILINE)
    source = (templates.HERE / "algorithm.py").read_text()
    assert len(source.splitlines()) < 110
