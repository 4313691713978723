"""What a run ran on: versions, processor, graphics card. Kept in every run.json."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import flowbench

PACKAGES = ("numpy", "mujoco", "dm_control", "gymnasium")

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "float32", "tf32", "bfloat16")


def versions(others: Collection[str] = ()) -> dict[str, str | None]:
    """Versions of flowbench, its git commit when it is a checkout, Python and what decides the numbers.

    `others` are distributions that do, too; one that was installed from git has its commit behind a plus.
    """
    import torch

    found: dict[str, str | None] = {"flowbench": flowbench.__version__, "commit": git_commit()}
    found["python"] = platform.python_version()
    found["torch"] = str(torch.__version__)  # tells the CUDA it was built for, which the package's own version may not
    for package in (*PACKAGES, *others):
        try:
            commit = _commit_of(package) if package in others else None
            found[package] = f"{version(package)}+{commit}" if commit else version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _commit_of(package: str) -> str | None:
    """The commit that a distribution was installed from, as pip left it (PEP 610); None without one."""
    origin = json.loads(distribution(package).read_text("direct_url.json") or "{}")
    if "vcs_info" in origin:
        return str(origin["vcs_info"]["commit_id"])
    if origin.get("dir_info", {}).get("editable"):
        return _commit(Path(url2pathname(urlparse(origin["url"]).path)))
    return None


def git_commit() -> str | None:
    """The commit of the checkout flowbench runs from, with "-dirty" when tracked files differ; None without one."""
    return _commit(Path(flowbench.__file__).resolve().parent.parent)


def _commit(root: Path) -> str | None:
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return described.stdout.strip() or None


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """CUDA devices that a worker would see, as CUDA_VISIBLE_DEVICES names them, found without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device.strip() for device in visible.split(",") if device.strip() not in ("", "-1")]
    return re.findall(r"^GPU (\d+):", _nvidia_smi("-L"), re.MULTILINE)


def gpu_model(gpu: str) -> tuple[str, int] | None:
    """Name and bytes of a GPU as CUDA_VISIBLE_DEVICES calls it; None where the driver does not tell, as of MIG."""
    for line in _nvidia_smi("--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits").splitlines():
        index, uuid, name, mebibytes = (part.strip() for part in line.split(","))
        if gpu == index or (gpu.startswith("GPU-") and uuid.startswith(gpu)):  # the start of an identifier is enough
            return (name, int(mebibytes) * 2**20) if mebibytes.isdecimal() else None
    return None


def gpu_bytes_of(process: int) -> int | None:
    """What a process takes of GPUs; None where the driver does not list it, as in some containers."""
    query = ("--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
    pairs = [line.split(",") for line in _nvidia_smi(*query).splitlines()]
    taken = [int(used) for pid, used in pairs if pid.strip() == str(process) and used.strip().isdecimal()]
    return sum(taken) * 2**20 if taken else None


def _nvidia_smi(*arguments: str) -> str:
    """What the driver's tool prints; nothing where it is missing or fails."""
    if shutil.which("nvidia-smi") is None:
        return ""
    said = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, check=False)
    return said.stdout if said.returncode == 0 else ""


CONTEXT_BYTES = 600 * 2**20  # of a CUDA context, where the driver does not tell what a process takes
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def peak_memory(children: int = 0) -> dict[str, int | None]:
    """The most this process has taken: `host_bytes`, and on a GPU `gpu_bytes`, the CUDA context included.

    `children` is how many processes it had beside it, which are counted as large as the largest that has ended.
    """
    return {"host_bytes": _own_peak() + children * _most(resource.RUSAGE_CHILDREN), "gpu_bytes": _gpu_peak()}


def _own_peak() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return _most(resource.RUSAGE_SELF)
    # On Linux getrusage counts from before the program was loaded, when the process was still its parent's copy.
    return 1024 * int(re.findall(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)[0])


def _most(who: int) -> int:
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _gpu_peak() -> int | None:
    torch = sys.modules.get("torch")  # a worker that has not come to import it has taken nothing
    if torch is None or not torch.cuda.is_initialized():
        return None
    listed = gpu_bytes_of(os.getpid())
    context = CONTEXT_BYTES if listed is None else max(0, listed - torch.cuda.memory_reserved())
    return int(torch.cuda.max_memory_reserved() + context)


def host_memory() -> int:
    """Bytes of main memory that this process may use: the machine's, or its control group's limit."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in map(Path, CGROUP_LIMITS):
        if path.exists() and (text := path.read_text().strip()).isdecimal():  # "max" is none
            limits.append(int(text))
    return min(limits)
