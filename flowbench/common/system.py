"""The machine that a run uses: versions, processor, GPU and memory."""

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
    """Versions of flowbench, Python and the libraries that affect the numbers; the git commit if it is a checkout.

    `others` are further distributions that affect them. If one was installed from git, "+" and its commit follow.
    """
    import torch

    found: dict[str, str | None] = {"flowbench": flowbench.__version__, "commit": git_commit()}
    found["python"] = platform.python_version()
    found["torch"] = str(torch.__version__)  # names the CUDA version, which the metadata of the package may omit
    for package in (*PACKAGES, *others):
        try:
            commit = _commit_of(package) if package in others else None
            found[package] = f"{version(package)}+{commit}" if commit else version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _commit_of(package: str) -> str | None:
    """The commit that a distribution was installed from, as pip recorded it (PEP 610); None without one."""
    origin = json.loads(distribution(package).read_text("direct_url.json") or "{}")
    if "vcs_info" in origin:
        return str(origin["vcs_info"]["commit_id"])
    if origin.get("dir_info", {}).get("editable"):
        return _commit(Path(url2pathname(urlparse(origin["url"]).path)))
    return None


def git_commit() -> str | None:
    """The commit of the checkout that flowbench runs from, with "-dirty" if tracked files differ; None without one."""
    return _commit(Path(flowbench.__file__).resolve().parent.parent)


def _commit(root: Path) -> str | None:
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None

    def git(*arguments: str) -> str:
        # Without its optional lock, which would stay and block the user's git if this process is killed.
        command = ["git", "--no-optional-locks", *arguments]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout.strip()

    commit = git("describe", "--always", "--abbrev=40", "--exclude=*")
    return f"{commit}-dirty" if commit and git("status", "--porcelain", "--untracked-files=no") else commit or None


def cpu_model() -> str:
    """The name of the processor, as the system reports it."""
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()


def cpu_vendor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The maker of the processor, such as "GenuineIntel" or "AuthenticAMD"; empty where the system does not tell it."""
    try:
        match = re.search(r"^vendor_id\s*: (.+)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else ""


VECTORS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX"}
ZEN = {"23": "Zen or Zen 2", "25": "Zen 3", "26": "Zen 5"}  # by the family of the processor


def cpu_generation(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What decides the speed of matrix products, since the name may not: such as "Zen 4, AVX-512, AVX512-BF16"."""
    try:
        first = cpuinfo.read_text(encoding="utf-8").split("\n\n", 1)[0]
    except OSError:
        return platform.machine()
    known = dict(re.findall(r"^([^\t:]+?)\s*: (.*)$", first, re.MULTILINE))
    flags = known.get("flags", "").split()
    family = ZEN.get(known.get("cpu family", "")) if known.get("vendor_id") == "AuthenticAMD" else None
    if family == "Zen 3" and "avx512f" in flags:
        family = "Zen 4"
    names = [*filter(None, [family]), *(name for flag, name in VECTORS.items() if flag in flags)]
    return ", ".join(name for name in names if name != "AVX2" or "AVX-512" not in names) or platform.machine()


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """The CUDA devices that a worker would see, as CUDA_VISIBLE_DEVICES names them. Does not import torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device.strip() for device in visible.split(",") if device.strip() not in ("", "-1")]
    return re.findall(r"^GPU (\d+):", _nvidia_smi("-L"), re.MULTILINE)


def gpu_model(gpu: str) -> tuple[str, int] | None:
    """Name and bytes of a GPU named as in CUDA_VISIBLE_DEVICES; None if the driver does not report them, as for MIG."""
    for line in _nvidia_smi("--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits").splitlines():
        index, uuid, name, mebibytes = (part.strip() for part in line.split(","))
        if gpu == index or (gpu.startswith("GPU-") and uuid.startswith(gpu)):  # a prefix of a UUID is valid, too
            return (name, int(mebibytes) * 2**20) if mebibytes.isdecimal() else None
    return None


def gpu_bytes_of(process: int) -> int | None:
    """Bytes of GPU memory that a process uses; None if the driver does not list it, as in some containers."""
    query = ("--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
    pairs = [line.split(",") for line in _nvidia_smi(*query).splitlines()]
    taken = [int(used) for pid, used in pairs if pid.strip() == str(process) and used.strip().isdecimal()]
    return sum(taken) * 2**20 if taken else None


def _nvidia_smi(*arguments: str) -> str:
    """The output of nvidia-smi; an empty text if it is missing or fails."""
    if shutil.which("nvidia-smi") is None:
        return ""
    ended = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, check=False)
    return ended.stdout if ended.returncode == 0 else ""


CONTEXT_BYTES = 600 * 2**20  # estimate for a CUDA context, if the driver does not report the memory of a process
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def peak_memory(children: int = 0) -> dict[str, int | None]:
    """Peak memory of this process: `host_bytes`, and on a GPU `gpu_bytes`, which includes the CUDA context.

    `children` is the number of its child processes. Each counts as much as the largest one that has ended.
    """
    return {"host_bytes": _own_peak() + children * _max_rss(resource.RUSAGE_CHILDREN), "gpu_bytes": _gpu_peak()}


def _own_peak() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return _max_rss(resource.RUSAGE_SELF)
    # On Linux getrusage includes the time before exec, when the process was a copy of its parent.
    return 1024 * int(re.findall(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)[0])


def _max_rss(who: int) -> int:
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _gpu_peak() -> int | None:
    torch = sys.modules.get("torch")  # a worker that has not imported it uses no GPU memory
    if torch is None or not torch.cuda.is_initialized():
        return None
    listed = gpu_bytes_of(os.getpid())
    context = CONTEXT_BYTES if listed is None else max(0, listed - torch.cuda.memory_reserved())
    return int(torch.cuda.max_memory_reserved() + context)


def host_memory() -> int:
    """Bytes of main memory that this process may use: those of the machine, or the limit of its control group."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in map(Path, CGROUP_LIMITS):
        if path.exists() and (text := path.read_text().strip()).isdecimal():  # "max" means no limit
            limits.append(int(text))
    return min(limits)
