"""Memory: what this process took at most, and what the machine has."""

from __future__ import annotations

import os
import re
import resource
import sys
from pathlib import Path

from flowbench import machine

CONTEXT_BYTES = 600 * 2**20  # of a CUDA context, where the driver does not tell what a process takes
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def peak(children: int = 0) -> dict[str, int | None]:
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
    listed = machine.gpu_bytes_of(os.getpid())
    context = CONTEXT_BYTES if listed is None else max(0, listed - torch.cuda.memory_reserved())
    return int(torch.cuda.max_memory_reserved() + context)


def of_host() -> int:
    """Bytes of main memory that this process may use: the machine's, or its control group's limit."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in map(Path, CGROUP_LIMITS):
        if path.exists() and (text := path.read_text().strip()).isdecimal():  # "max" is none
            limits.append(int(text))
    return min(limits)
