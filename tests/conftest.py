"""Settings and fixtures that every test shares."""

from __future__ import annotations

import os

# On small networks two threads wait for each other longer than they compute, even more so beside other tests.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    # Tables are laid out for the width of the terminal, and colours depend on it; neither may depend on who runs the
    # tests.
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def flowbench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Calls the command line in this process: exit status, stdout, stderr."""
    from flowbench import cli
    from flowbench.common import system

    # Two threads on networks of eight units wait for each other far longer than they compute.
    monkeypatch.setattr(system, "cores", lambda: 1)

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli._status([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """Runs scripts in the place of worker processes."""
    from scripts import Script

    return Script(monkeypatch)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch):
    """A CUDA device that is pretended on the CPU."""
    from fake_cuda import install

    with install(monkeypatch) as device:
        yield device
