"""Which faults are the machine's."""

from __future__ import annotations

import errno

import pytest
import torch

from flowbench.children import Child
from flowbench.faults import is_transient
from flowbench.vecenv import EnvironmentFault


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (OSError(errno.ENOSPC, "full"), True),
        (OSError(errno.ESTALE, "gone"), True),
        (BlockingIOError(errno.EAGAIN, "no more processes"), True),
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (caused(RuntimeError("cannot save"), OSError(errno.ENOSPC, "full")), True),
        (FileNotFoundError(errno.ENOENT, "a file of its own"), False),
        (PermissionError(errno.EACCES, "not allowed"), False),
        (OSError("no number"), False),
        (RuntimeError("boom"), False),
        (caused(RuntimeError("boom"), ValueError("bad")), False),
        (FloatingPointError("loss became nan"), False),
        (SystemExit(3), False),
    ],
)
def test_a_fault_is_the_machines_or_not(error: BaseException, transient: bool) -> None:
    assert is_transient(error) == transient


def _wait(link) -> None:
    link.wait()


def test_a_child_that_was_killed_is_a_fault_of_the_machine() -> None:
    child = Child("a child", _wait, fault=EnvironmentFault)
    child.kill()
    with pytest.raises(EnvironmentFault, match="killed by SIGKILL") as raised:
        child.wait()
    child.close()
    assert is_transient(raised.value)
