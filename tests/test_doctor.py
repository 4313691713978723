"""What the doctor finds wrong, and what it says to do about it."""

from __future__ import annotations

import subprocess
from email.message import Message
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import suites
from flowbench import cli, doctor
from flowbench.doctor import BROKEN, MISSING, OK, Finding

REQUIRES = [
    "numpy>=1.26",
    "mujoco>=3.2,<4",
    "dm_control>=1.0.27; python_version < '3'",
    'ray>=2.40; extra == "ray"',
    'tensorboard>=2; extra == "log"',
    'wandb>=1; extra == "log"',
    'pytest>=8; extra == "test"',
]
HERE = {"numpy": "2.4.6", "mujoco": "4.0.0", "tensorboard": "2.21.0", "wandb": "0.31.0"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is installed, by name; flowbench as REQUIRES says."""
    about = Message()
    about["Requires-Python"] = ">=3.10"
    for extra in ("ray", "log", "test"):
        about["Provides-Extra"] = extra
    here = dict(HERE)

    def version(name: str) -> str:
        if name not in here:
            raise doctor.PackageNotFoundError(name)
        return here[name]

    monkeypatch.setattr(doctor, "distribution", lambda name: SimpleNamespace(requires=REQUIRES, metadata=about))
    monkeypatch.setattr(doctor, "version", version)
    return here


def test_libraries_are_told_by_their_versions(environment: dict[str, str]) -> None:
    del environment["numpy"]
    numpy, mujoco = doctor.libraries()  # dm_control is not for this Python
    assert numpy == Finding("numpy", MISSING, "is not installed", 'pip install "numpy>=1.26"')
    assert (mujoco.what, mujoco.state) == ("mujoco", BROKEN)
    assert "4.0.0" in mujoco.says
    assert mujoco.mend == 'pip install "mujoco<4,>=3.2"'


def test_extras_are_optional_and_those_of_developers_are_not_told(environment: dict[str, str]) -> None:
    ray, log = doctor.extras()
    assert ray == Finding("extra ray", MISSING, "ray is not installed", 'pip install -e ".[ray]"', needed=False)
    assert (log.what, log.state, log.mend) == ("extra log", BROKEN, 'pip install -e ".[log]"')
    assert "wandb 0.31.0" in log.says
    assert "tensorboard" not in log.says
    environment["wandb"] = "1.2"
    assert [each.state for each in doctor.extras()] == [MISSING, OK]


def test_a_python_that_is_too_old(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.python().state == OK
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.9.2")
    found = doctor.python()
    assert (found.state, found.needed) == (BROKEN, True)
    assert "3.9.2; flowbench needs >=3.10" in found.says


def test_flowbench_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DISTRIBUTION", "no-such-package")
    assert doctor.python().mend == "pip install -e ."
    assert [*doctor.libraries(), *doctor.extras()] == []


@pytest.mark.parametrize(
    ("driver", "built", "state", "said"),
    [(None, None, MISSING, "no NVIDIA driver"), (None, "12.8", MISSING, "no NVIDIA driver"),
     ("550.1", None, BROKEN, "built without CUDA"), ("550.1", "13.0", BROKEN, "finds no GPU with driver 550.1")],
)  # fmt: skip
def test_a_gpu_that_torch_does_not_find(
    driver: str | None, built: str | None, state: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(doctor, "_driver", lambda: driver)
    found = doctor.graphics_card()
    assert (found.state, found.needed) == (state, False)
    assert said in found.says
    assert bool(found.mend) == (state == BROKEN)


def test_a_results_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.folder(tmp_path / "not" / "yet").state == OK
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert doctor.folder(tmp_path / "file").state == BROKEN
    monkeypatch.setattr(doctor.lock, "is_held", lambda folder: False)
    found = doctor.folder(tmp_path)
    assert found.state == BROKEN
    assert "flock" in found.says
    assert "--results" in found.mend


def test_a_source_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    walk = doctor.ONE_OF["humanoid_bench"]
    found = doctor.source(suites.Task("Pendulum-v1", "gymnasium", 1, suites.Score(-1600.0, 0.0)))
    assert found.state == OK
    assert "gymnasium" in found.says

    def fail(error: Exception) -> None:
        def make(task: suites.Task) -> None:
            raise error

        monkeypatch.setattr(suites, "make", make)

    fail(suites.SuiteError("h1 tasks need HumanoidBench (no jax); install it with: pip install this"))
    found = doctor.source(walk)
    assert (found.state, found.says) == (MISSING, "h1 tasks need HumanoidBench (no jax)")
    assert found.mend.startswith("pip install --no-deps -e")
    fail(AttributeError("flex_vertedge"))
    found = doctor.source(doctor.ONE_OF["dm_control"])
    assert (found.state, found.says) == (BROKEN, "cartpole-swingup: AttributeError: flex_vertedge")


def test_drawing_is_tried_with_the_backend_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told = subprocess.CompletedProcess([], 1, "", "Traceback\nImportError: no EGL\n")
    asked = []

    def run(*arguments: object, env: dict[str, str], **settings: object) -> subprocess.CompletedProcess[str]:
        asked.append(env["MUJOCO_GL"])
        return told

    monkeypatch.setattr(doctor.subprocess, "run", run)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    found = doctor.drawing()
    assert (found.what, found.state, found.needed) == ("drawing, MUJOCO_GL=osmesa", MISSING, False)
    assert "ImportError: no EGL" in found.says
    assert "libegl1" in found.mend
    monkeypatch.delenv("MUJOCO_GL")
    told.returncode = 0
    assert doctor.drawing().state == OK
    assert asked[0] == "osmesa"


def test_a_suite_needs_its_sources_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "source", lambda task, needed=True: Finding(task.name, OK, task.source, needed=needed))
    monkeypatch.setattr(doctor, "drawing", lambda: Finding("drawing", OK, ""))

    def tried(suite: suites.Suite | None) -> list[tuple[str, bool]]:
        found = doctor.examine(tmp_path, suite)
        return [(each.what, each.needed) for each in found if each.says in suites.sources()]

    assert tried(None) == [("cartpole-swingup", True), ("h1-walk", False)]
    assert tried(suites.load("humanoid-bench", check_tasks=False)) == [("h1-walk", True)]


@pytest.mark.parametrize(("needed", "status"), [(True, 1), (False, 0)])
def test_the_command(
    needed: bool, status: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    long = "pip install --no-deps -e " + "[x]" * 60
    findings = [Finding("Python", OK, "3.11"), Finding("robots", MISSING, "none", long, needed)]
    monkeypatch.setattr(doctor, "examine", lambda results, suite: findings)
    assert cli._status(["doctor", "--suite", "quick"]) == status
    out = capfd.readouterr().out
    assert f"\nrobots: {long}\n" in out
    assert ("(optional)" in out) == (not needed)
    assert cli._status(["doctor", "--suite", "quik"]) == 2
