"""What flowbench needs, and what it can use, on this machine: whether it is here and works, and what mends it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import suites
from flowbench.common import system
from flowbench.store import lock

OK, MISSING, BROKEN = "ok", "missing", "broken"
DISTRIBUTION = "flowbench-rl"
DEVELOPERS = ("test", "dev")  # extras that nobody needs to run or report anything
ONE_OF = {  # a task to try each source with
    "dm_control": suites.Task("cartpole-swingup", "dm_control", 1, suites.Score(0.0, 1000.0)),
    "humanoid_bench": suites.Task("h1-walk", "humanoid_bench", 1, suites.Score(2.377, 700.0)),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `mend` is a command where there is one that helps."""

    what: str
    state: str
    says: str
    mend: str = ""
    needed: bool = True  # nothing runs without it, or not the suite that was asked about


def examine(results: Path, suite: suites.Suite | None = None) -> list[Finding]:
    """Everything, in the order in which it is worth mending; with a suite, of the sources of tasks only its own."""
    findings = [python(), *libraries(), graphics_card(), folder(results)]
    if suite:
        first = {task.source: task for task in reversed(suite.tasks)}
        findings += [source(task) for task in first.values()]
    else:
        findings += [source(task, needed=task.source == "dm_control") for task in ONE_OF.values()]
    return [*findings, drawing(), *extras()]


def python() -> Finding:
    """Whether this Python is one that flowbench is made for."""
    here = platform.python_version()
    try:
        wanted = distribution(DISTRIBUTION).metadata["Requires-Python"]
    except PackageNotFoundError:
        return Finding("flowbench", BROKEN, "imported, but not installed", "pip install -e .")
    if SpecifierSet(wanted).contains(here, prereleases=True):
        return Finding("Python", OK, here)
    return Finding("Python", BROKEN, f"{here}; flowbench needs {wanted}", "make an environment with such a Python")


def libraries() -> Iterator[Finding]:
    """Each library that flowbench requires, by its version."""
    for requirement in _required():
        yield _library(requirement)


def extras() -> Iterator[Finding]:
    """Each extra: whether all its libraries are there."""
    for extra in _declared():
        lacking = [finding for finding in map(_library, _required(extra)) if finding.state != OK]
        what = f"extra {extra}"
        if lacking:
            state = BROKEN if any(finding.state == BROKEN for finding in lacking) else MISSING
            said = ", ".join(f"{finding.what} {finding.says}" for finding in lacking)
            yield Finding(what, state, said, f'pip install -e ".[{extra}]"', needed=False)
        else:
            said = ", ".join(f"{each.name} {version(each.name)}" for each in _required(extra))
            yield Finding(what, OK, said, needed=False)


def graphics_card() -> Finding:
    """Whether torch can compute on a GPU, where there is one."""
    import torch

    what, built = "CUDA", torch.version.cuda
    if torch.cuda.is_available():
        try:
            torch.ones(1, device="cuda").sum().item()
        except RuntimeError as error:
            return Finding(what, BROKEN, _line(error), "update the NVIDIA driver, or torch", needed=False)
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Finding(what, OK, f"torch for CUDA {built}, driver {_driver() or 'unknown'}: {names}", needed=False)
    driver = _driver()
    if driver is None:
        return Finding(what, MISSING, "no NVIDIA driver here; training runs on the CPU", needed=False)
    if built is None:
        mend = "pip install --force-reinstall torch"
        return Finding(what, BROKEN, f"driver {driver} is here, but torch is built without CUDA", mend, needed=False)
    said = f"torch for CUDA {built} finds no GPU with driver {driver}"
    return Finding(what, BROKEN, said, "update the driver, or unset CUDA_VISIBLE_DEVICES", needed=False)


def folder(results: Path) -> Finding:
    """Whether runs can be written below the results folder, and locked there."""
    what, other = f"results folder {results}", "choose another disk with --results"
    there = next(path for path in (results.absolute(), *results.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".doctor-") as name, lock.hold(Path(name)):
            locked = lock.is_held(Path(name))
    except OSError as error:
        return Finding(what, BROKEN, f"{there}: {error.strerror}", other)
    if not locked:
        return Finding(what, BROKEN, "locks (flock) hold nothing there: two commands could train the same run", other)
    return Finding(what, OK, "can be written, and locks hold")


def source(task: suites.Task, needed: bool = True) -> Finding:
    """Whether a task of its source can be made and stepped."""
    what = f"tasks of {task.source}"
    try:
        env = suites.make(task)
        env.reset(seed=0)
        env.step(env.action_space.sample())
        env.close()
    except suites.SuiteError as error:
        return Finding(what, MISSING, _line(error).partition("; install it with: ")[0], _mend(task.source), needed)
    except Exception as error:  # each simulator fails in its own way
        return Finding(what, BROKEN, f"{task.name}: {type(error).__name__}: {_line(error)}", _mend(task.source), needed)
    used = system.versions(suites.packages(task.source))
    names = ("mujoco", task.source) if task.source in used else ("gymnasium",)
    return Finding(
        what, OK, ", ".join([f"{task.name} runs", *(f"{name} {used[name]}" for name in names)]), needed=needed
    )


def drawing() -> Finding:
    """Whether MuJoCo can draw off-screen, which only films need."""
    backend = os.environ.get("MUJOCO_GL") or ("egl" if sys.platform == "linux" else "glfw")
    what = f"drawing, MUJOCO_GL={backend}"
    # MuJoCo asks for the backend once, as it is imported.
    tried = subprocess.run(
        [sys.executable, "-c", "import mujoco; mujoco.GLContext(64, 64).make_current()"],
        env={**os.environ, "MUJOCO_GL": backend}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if tried.returncode == 0:
        return Finding(what, OK, "can draw off-screen", needed=False)
    mend = "apt-get install libegl1 libgl1 && export MUJOCO_GL=egl"
    said = (tried.stderr.strip().splitlines() or ["it ended without a word"])[-1]
    return Finding(what, MISSING, f"no video can be made: {said}", mend, needed=False)


def _library(requirement: Requirement) -> Finding:
    mend = f'pip install "{requirement.name}{requirement.specifier}"'
    try:
        here = version(requirement.name)
    except PackageNotFoundError:
        return Finding(requirement.name, MISSING, "is not installed", mend)
    if requirement.specifier.contains(here, prereleases=True):
        return Finding(requirement.name, OK, here)
    return Finding(requirement.name, BROKEN, f"{here} does not work; {requirement.specifier} does", mend)


def _required(extra: str = "") -> list[Requirement]:
    """What flowbench or an extra of it requires here, from the metadata that it was installed with."""
    try:
        every = [Requirement(text) for text in distribution(DISTRIBUTION).requires or ()]
    except PackageNotFoundError:
        return []
    core = [each for each in every if each.marker is None or each.marker.evaluate({"extra": ""})]
    if not extra:
        return core
    return [each for each in every if each not in core and each.marker and each.marker.evaluate({"extra": extra})]


def _declared() -> list[str]:
    try:
        declared = distribution(DISTRIBUTION).metadata.get_all("Provides-Extra") or []
    except PackageNotFoundError:
        return []
    return [extra for extra in declared if extra not in DEVELOPERS]


def _mend(source: str) -> str:
    if source == "humanoid_bench":
        from suites import humanoid_bench

        return humanoid_bench.INSTALL
    names = {"dm_control": ("mujoco", "dm_control")}.get(source, ("gymnasium",))
    wanted = " ".join(f'"{each.name}{each.specifier}"' for each in _required() if each.name in names)
    return f"pip install {wanted}"


def _driver() -> str | None:
    """The version of the NVIDIA driver; None without one."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    told = subprocess.run(query, capture_output=True, text=True, check=False)
    found = told.stdout.split()
    return found[0] if told.returncode == 0 and found else None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
