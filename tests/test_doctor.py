"""`flowbench doctor`: what it finds, and how it suggests to fix it."""

from __future__ import annotations

import subprocess
from email.message import Message
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import suites
from flowbench import cli, doctor
from flowbench.common import system
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


def test_libraries_are_checked_by_version(environment: dict[str, str]) -> None:
    del environment["numpy"]
    numpy, mujoco = doctor.libraries()  # dm_control is not for this Python
    assert numpy == Finding("numpy", MISSING, "is not installed", 'pip install "numpy>=1.26"')
    assert (mujoco.what, mujoco.state) == ("mujoco", BROKEN)
    assert "4.0.0" in mujoco.details
    assert mujoco.fix == 'pip install "mujoco<4,>=3.2"'


@pytest.mark.parametrize(("generation", "said"), [("Zen 4, AVX-512, AVX512-BF16", True), ("Zen 3, AVX2", False)])
def test_the_processor_tells_whether_bfloat16_pays(
    monkeypatch: pytest.MonkeyPatch, generation: str, said: bool
) -> None:
    monkeypatch.setattr(system, "cpu_generation", lambda: generation)
    found = doctor.processor()
    assert generation in found.details
    assert ("--precision bfloat16" in found.details) == said


def test_extras_are_optional_and_those_of_developers_are_skipped(environment: dict[str, str]) -> None:
    ray, log = doctor.extras()
    assert ray == Finding("extra ray", MISSING, "ray is not installed", 'pip install -e ".[ray]"', needed=False)
    assert (log.what, log.state, log.fix) == ("extra log", BROKEN, 'pip install -e ".[log]"')
    assert "wandb 0.31.0" in log.details
    assert "tensorboard" not in log.details
    environment["wandb"] = "1.2"
    assert [each.state for each in doctor.extras()] == [MISSING, OK]


def test_a_python_that_is_too_old(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.python().state == OK
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.9.2")
    found = doctor.python()
    assert (found.state, found.needed) == (BROKEN, True)
    assert "3.9.2; flowbench needs >=3.10" in found.details


def test_flowbench_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DISTRIBUTION", "no-such-package")
    assert doctor.python().fix == "pip install -e ."
    assert [*doctor.libraries(), *doctor.extras()] == []


@pytest.mark.parametrize(
    ("driver", "built", "state", "details"),
    [(None, None, MISSING, "no NVIDIA driver"), (None, "12.8", MISSING, "no NVIDIA driver"),
     ("550.1", None, BROKEN, "built without CUDA"), ("550.1", "13.0", BROKEN, "finds no GPU with driver 550.1")],
)  # fmt: skip
def test_a_gpu_that_torch_does_not_find(
    driver: str | None, built: str | None, state: str, details: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(doctor, "_driver", lambda: driver)
    found = doctor.graphics_card()
    assert (found.state, found.needed) == (state, False)
    assert details in found.details
    assert bool(found.fix) == (state == BROKEN)


def test_a_results_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.folder(tmp_path / "not" / "yet").state == OK
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert doctor.folder(tmp_path / "file").state == BROKEN
    monkeypatch.setattr(doctor.lock, "is_held", lambda folder: False)
    found = doctor.folder(tmp_path)
    assert found.state == BROKEN
    assert "flock" in found.details
    assert "--results" in found.fix


def test_source_of_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    walk = doctor.EXAMPLES["humanoid_bench"]
    found = doctor.source(suites.Task("Pendulum-v1", "gymnasium", 1, suites.Score(-1600.0, 0.0)))
    assert found.state == OK
    assert "gymnasium" in found.details

    def fail(error: Exception) -> None:
        def make(task: suites.Task) -> None:
            raise error

        monkeypatch.setattr(suites, "make", make)

    fail(suites.SuiteError("h1 tasks need HumanoidBench (no jax); install it with: pip install this"))
    found = doctor.source(walk)
    assert (found.state, found.details) == (MISSING, "h1 tasks need HumanoidBench (no jax)")
    assert found.fix == "pip install this"
    fail(suites.SuiteError("unknown humanoid_bench task 'h1-walk'"))
    assert doctor.source(walk).fix.startswith("pip install --no-deps -e")
    fail(AttributeError("flex_vertedge"))
    found = doctor.source(doctor.EXAMPLES["dm_control"])
    assert (found.state, found.details) == (BROKEN, "cartpole-swingup: AttributeError: flex_vertedge")


def test_rendering_uses_the_chosen_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    result = subprocess.CompletedProcess([], 1, "", "Traceback\nImportError: no EGL\n")
    asked = []

    def run(*arguments: object, env: dict[str, str], **settings: object) -> subprocess.CompletedProcess[str]:
        asked.append(env["MUJOCO_GL"])
        return result

    monkeypatch.setattr(doctor.subprocess, "run", run)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    found = doctor.rendering()
    assert (found.what, found.state, found.needed) == ("rendering, MUJOCO_GL=osmesa", MISSING, False)
    assert "ImportError: no EGL" in found.details
    assert "libegl1" in found.fix
    monkeypatch.delenv("MUJOCO_GL")
    result.returncode = 0
    assert doctor.rendering().state == OK
    assert asked[0] == "osmesa"


def test_every_task_of_a_suite_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"walker-walk": "no model", "dog-run": "no fur"}

    def make(task: suites.Task) -> SimpleNamespace:
        if task.name in broken:
            raise ValueError(broken[task.name])
        space = SimpleNamespace(sample=lambda: 0)
        return SimpleNamespace(reset=lambda seed: 0, step=lambda a: 0, close=lambda: 0, action_space=space)

    monkeypatch.setattr(suites, "make", make)
    names = ("walker-walk", "cartpole-swingup", "dog-run")
    score = suites.Score(0.0, 1.0)
    made = tuple(suites.Task(name, "dm_control", 1, score) for name in names)
    suite = suites.Suite("mine", "Mine", (*made, suites.Task("Pendulum-v1", "gymnasium", 1, score)), 10,
                         suites.Evaluation(5, 1))  # fmt: skip
    good, *bad, other = doctor.tasks(suite)
    assert good.details.startswith("1 of 3 tasks of mine run, mujoco ")
    assert [(each.what, each.state, each.details) for each in bad] == [
        ("task walker-walk", BROKEN, "walker-walk: ValueError: no model"),
        ("task dog-run", BROKEN, "dog-run: ValueError: no fur"),
    ]
    assert all(each.needed for each in bad)
    assert other.details.startswith("all 1 task of mine run, ")


def test_a_suite_needs_only_its_own_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "source", lambda task, needed=True: Finding(task.name, OK, task.source, needed=needed))
    monkeypatch.setattr(doctor, "rendering", lambda: Finding("rendering", OK, ""))

    def tried(suite: suites.Suite | None) -> list[tuple[str, bool]]:
        found = doctor.examine(tmp_path, suite)
        return [(each.what, each.needed) for each in found if each.what in names]

    names = {"cartpole-swingup", "h1-walk"}
    assert tried(None) == [("cartpole-swingup", True), ("h1-walk", False)]
    robots = suites.load("humanoid-bench", check_tasks=False)
    monkeypatch.setattr(doctor, "source", lambda task, needed=True: Finding(task.name, MISSING, "", needed=needed))
    names = {f"task {task.name}" for task in robots.tasks}
    assert tried(robots) == [(f"task {task.name}", True) for task in robots.tasks]


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
