"""Which faults are the machine's."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from flowbench.common.child_process import Child
from flowbench.common.errors import is_transient, signal_name
from flowbench.train.vecenv import EnvironmentFault


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
def test_transient_errors(error: BaseException, transient: bool) -> None:
    assert is_transient(error) == transient


def test_failed_allocation_is_transient() -> None:
    with pytest.raises(RuntimeError, match="allocate") as raised:
        torch.empty(10**15)
    assert is_transient(raised.value)


def _wait(link) -> None:
    link.wait()


def test_killed_child_is_transient() -> None:
    child = Child("a child", _wait, fault=EnvironmentFault)
    child.kill()
    with pytest.raises(EnvironmentFault, match="killed by SIGKILL") as raised:
        child.wait()
    child.close()
    assert is_transient(raised.value)


def test_signal_without_a_name_has_its_number() -> None:
    assert [signal_name(number) for number in (9, 40)] == ["SIGKILL", "signal 40"]
    child = Child("a child", _wait, fault=EnvironmentFault)
    os.kill(child._process.pid, 40)
    with pytest.raises(EnvironmentFault, match=r"killed by signal 40$"):
        child.wait()
    child.close()
