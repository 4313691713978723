"""Shell completion: what is offered, and that it is light."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import EXAMPLE, write_suite

import algos
import flowbench as package
from flowbench import cli
from flowbench.plan import overrides


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """What a shell is offered for the last of these words."""

    def call(*words: str) -> list[str]:
        monkeypatch.setenv("_FLOWBENCH_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", " ".join(["flowbench", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        monkeypatch.setattr(sys, "argv", ["flowbench"])
        monkeypatch.setattr(sys.modules["__main__"], "__package__", None)  # as in the program flowbench
        with pytest.raises(SystemExit):
            cli.main()
        out, err = capsys.readouterr()
        assert err == ""
        return out.split()

    return call


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["resu"], ["results"]),
        (["results", "m"], ["merge"]),
        (["run", "--suite", "dmc-"], ["dmc-easy", "dmc-medium", "dmc-hard"]),
        (["list", "tasks", "qu"], ["quick"]),
        (["run", "--suite", "quick", "--task", "cart"], ["cartpole-swingup", "cartpole-balance"]),
        (["run", "--suite", "quick", "--task", "walker-stand,cartpole-b"], ["walker-stand,cartpole-balance"]),
        (["run", "--algo", "f"], ["flowrl", "flashsac"]),
        (["run", "--algo", "sac,t"], ["sac,td3"]),
        (["run", "--algo", "flowrl[tau=0.1,flow_"], ["flowrl[tau=0.1,flow_steps="]),
        (["run", "--algo", "flowrl[tau=0.1,hidden=8],q"], ["flowrl[tau=0.1,hidden=8],qvpo"]),
        (["run", "--algo", "sac,td3", "--set", "policy"], ["policy_delay="]),
        (["run", "--algo", "sac", "--set", "policy"], []),
        (["run", "--set", "flowrl.cons"], ["flowrl.constraint="]),
        (["list", "params", "sa"], ["sac"]),
        (["compare", "sac", "t"], ["td3"]),
        (["report", "--format", "la"], ["latex"]),
        (["run", "--device", "c"], ["cpu", "cuda"]),
        (["run", "--env", "Pendulum"], ["Pendulum-v1"]),
        (["run", "--suite", "none.yaml", "--task", "c"], []),
        (["run", "--dry"], ["--dry-run"]),
    ],
)
def test_what_is_offered(words: list[str], offered: list[str], complete) -> None:
    assert complete(*words) == offered


def test_tasks_of_a_suite_in_a_file(complete, tmp_path: Path) -> None:
    assert complete("run", "--suite", write_suite(tmp_path), "--task", "pend") == ["pendulum-swingup"]


@pytest.mark.parametrize("name", [*algos.names(), EXAMPLE])
def test_hyperparameters_read_from_the_source_are_those_of_the_class(name: str) -> None:
    entry = algos.find(name)
    assert set(entry.hyperparameters()) == set(overrides.fields(entry.load().Config))


def test_completion_imports_nothing_heavy() -> None:
    code = (
        "import atexit, sys; sys.argv = ['flowbench']\n"
        "heavy = {'torch', 'pandas', 'mujoco', 'dm_control', 'gymnasium', 'scipy', 'matplotlib', 'joblib', 'numpy'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules))))\n"
        "from flowbench import cli; cli.main()"
    )
    for words in ("run --suite q", "run --task c", "run --algo flowrl[t", "run --set l", "report --format m"):
        asked = {"COMP_WORDS": f"flowbench {words}", "COMP_CWORD": "3", "_FLOWBENCH_COMPLETE": "complete_bash"}
        environment = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1]), **asked}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.stdout.splitlines()[-1] == "[]", words + done.stdout + done.stderr
        assert len(done.stdout.splitlines()) > 1, words
