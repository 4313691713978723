"""Checks what flowbench needs or can use on this machine, and suggests how to fix what does not work."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import suites
from flowbench.common import system
from flowbench.common.errors import describe
from flowbench.common.text_table import plural
from flowbench.store import lock

OK, MISSING, BROKEN = "ok", "missing", "broken"
DISTRIBUTION = "flowbench-rl"
DEVELOPERS = ("test", "dev")  # extras for the development of flowbench, which are not checked
EXAMPLES = {  # a task of each checked source
    "dm_control": suites.Task("cartpole-swingup", "dm_control", 1, suites.Score(0.0, 1000.0)),
    "humanoid_bench": suites.Task("h1-walk", "humanoid_bench", 1, suites.Score(2.377, 700.0)),
}


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    what: str
    state: str
    details: str
    fix: str = ""  # a command, if there is one
    needed: bool = True  # by flowbench itself, or by the suite that is checked


def examine(results: Path, suite: suites.Suite | None = None) -> list[Finding]:
    """All checks, the most important first; with a suite, every task of it is made instead of one of each source."""
    findings = [python(), *libraries(), processor(), graphics_card(), folder(results)]
    if suite:
        findings += tasks(suite)
    else:
        findings += [source(task, needed=task.source == "dm_control") for task in EXAMPLES.values()]
    return [*findings, rendering(), *extras()]


def python() -> Finding:
    """Whether flowbench supports this Python version."""
    here = platform.python_version()
    try:
        wanted = distribution(DISTRIBUTION).metadata["Requires-Python"]
    except PackageNotFoundError:
        return Finding("flowbench", BROKEN, "not installed", "pip install -e .")
    if SpecifierSet(wanted).contains(here, prereleases=True):
        return Finding("Python", OK, here)
    return Finding("Python", BROKEN, f"{here}; flowbench needs {wanted}", "create an environment with that Python")


def libraries() -> Iterator[Finding]:
    """Whether each required library has a supported version."""
    for requirement in _required():
        yield _library(requirement)


def extras() -> Iterator[Finding]:
    """Whether all libraries of each extra are installed."""
    for extra in _declared():
        failed = [finding for finding in map(_library, _required(extra)) if finding.state != OK]
        what = f"extra {extra}"
        if failed:
            state = BROKEN if any(finding.state == BROKEN for finding in failed) else MISSING
            details = ", ".join(f"{finding.what} {finding.details}" for finding in failed)
            yield Finding(what, state, details, f'pip install -e ".[{extra}]"', needed=False)
        else:
            details = ", ".join(f"{each.name} {version(each.name)}" for each in _required(extra))
            yield Finding(what, OK, details, needed=False)


def processor() -> Finding:
    """The processor, and whether it multiplies faster in bfloat16."""
    found = [system.cpu_model(), system.cpu_generation()]
    if "AVX512-BF16" in found[1]:
        found.append("run --precision bfloat16 is faster for layers of 256 units and more, but rounds more coarsely")
    return Finding("CPU", OK, ", ".join(found), needed=False)


def graphics_card() -> Finding:
    """Whether torch can compute on the GPU, if there is one."""
    import torch

    what, built = "CUDA", torch.version.cuda
    if torch.cuda.is_available():
        try:
            torch.ones(1, device="cuda").sum().item()
        except RuntimeError as error:
            return Finding(what, BROKEN, describe(error), "update the NVIDIA driver, or torch", needed=False)
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Finding(what, OK, f"torch for CUDA {built}, driver {_driver() or 'unknown'}: {names}", needed=False)
    driver = _driver()
    if driver is None:
        return Finding(what, MISSING, "no NVIDIA driver; training runs on the CPU", needed=False)
    if built is None:
        details = f"the driver {driver} is installed, but torch is built without CUDA"
        return Finding(what, BROKEN, details, "pip install --force-reinstall torch", needed=False)
    details = f"torch for CUDA {built} finds no GPU with driver {driver}"
    return Finding(what, BROKEN, details, "update the driver, or unset CUDA_VISIBLE_DEVICES", needed=False)


def folder(results: Path) -> Finding:
    """Whether runs can be written and locked in the results folder."""
    what, other = f"results folder {results}", "choose another disk with --results"
    there = next(path for path in (results.absolute(), *results.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".doctor-") as name, lock.hold(Path(name)):
            locked = lock.is_held(Path(name))
    except OSError as error:
        return Finding(what, BROKEN, f"{there}: {error.strerror}", other)
    if not locked:
        return Finding(what, BROKEN, "file locks (flock) do not work there: two commands could train one run", other)
    return Finding(what, OK, "can be written, and file locks work")


def tasks(suite: suites.Suite) -> Iterator[Finding]:
    """Whether every task of a suite can be created and stepped: one line for each source, and each task that fails."""
    for name in dict.fromkeys(task.source for task in suite.tasks):
        own = [task for task in suite.tasks if task.source == name]
        found = [source(task) for task in own]
        good = [finding for finding in found if finding.state == OK]
        if good:
            versions = good[0].details.partition(", ")[2]
            count = "all" if len(good) == len(own) else f"{len(good)} of"
            yield replace(good[0], details=f"{count} {plural(len(own), 'task')} of {suite.name} run, {versions}")
        for task, finding in zip(own, found, strict=True):
            if finding.state != OK:
                yield replace(finding, what=f"task {task.name}")


def source(task: suites.Task, needed: bool = True) -> Finding:
    """Whether a task of a source can be created and stepped."""
    what = f"tasks of {task.source}"
    try:
        env = suites.make(task)
        env.reset(seed=0)
        env.step(env.action_space.sample())
        env.close()
    except suites.SuiteError as error:
        reason, _, command = str(error).partition("; install it with: ")
        return Finding(what, MISSING, reason, command or _fix(task.source), needed)
    except Exception as error:  # each simulator fails in its own way
        return Finding(what, BROKEN, f"{task.name}: {describe(error)}", _fix(task.source), needed)
    used = system.versions(suites.packages(task.source))
    names = ("mujoco", task.source) if task.source in used else ("gymnasium",)
    return Finding(
        what, OK, ", ".join([f"{task.name} runs", *(f"{name} {used[name]}" for name in names)]), needed=needed
    )


def rendering() -> Finding:
    """Whether MuJoCo can render off-screen, which only videos need."""
    backend = os.environ.get("MUJOCO_GL") or ("egl" if sys.platform == "linux" else "glfw")
    what = f"rendering, MUJOCO_GL={backend}"
    # In a process of its own, because MuJoCo reads the backend only when it is imported.
    tried = subprocess.run(
        [sys.executable, "-c", "import mujoco; mujoco.GLContext(64, 64).make_current()"],
        env={**os.environ, "MUJOCO_GL": backend}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if tried.returncode == 0:
        return Finding(what, OK, "can render off-screen", needed=False)
    fix = "apt-get install libegl1 libgl1 && export MUJOCO_GL=egl"
    reason = (tried.stderr.strip().splitlines() or ["no error message"])[-1]
    return Finding(what, MISSING, f"no video can be recorded: {reason}", fix, needed=False)


def _library(requirement: Requirement) -> Finding:
    fix = f'pip install "{requirement.name}{requirement.specifier}"'
    try:
        here = version(requirement.name)
    except PackageNotFoundError:
        return Finding(requirement.name, MISSING, "is not installed", fix)
    if requirement.specifier.contains(here, prereleases=True):
        return Finding(requirement.name, OK, here)
    return Finding(requirement.name, BROKEN, f"{here} is not supported; {requirement.specifier} is", fix)


def _required(extra: str = "") -> list[Requirement]:
    """What flowbench or one of its extras requires on this machine, from its installed metadata."""
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


def _fix(source: str) -> str:
    if source == "humanoid_bench":
        from suites import humanoid_bench

        return humanoid_bench.INSTALL
    names = {"dm_control": ("mujoco", "dm_control")}.get(source, ("gymnasium",))
    wanted = " ".join(f'"{each.name}{each.specifier}"' for each in _required() if each.name in names)
    return f"pip install {wanted}"


def _driver() -> str | None:
    """The version of the NVIDIA driver, or None."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    found = answer.stdout.split()
    return found[0] if answer.returncode == 0 and found else None
