"""Memory of a process and of the machine."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from flowbench.common import system

MIB = 2**20


def test_peak_memory_of_a_process() -> None:
    program = (
        "import json; from flowbench.common import system; before = system.peak_memory()\n"
        "taken = bytearray(200 * 2**20); del taken\n"
        "print(json.dumps([before, system.peak_memory()]))"
    )
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    before, after = json.loads(told)
    assert 190 * MIB < after["host_bytes"] - before["host_bytes"] < 300 * MIB
    assert after["gpu_bytes"] is None


def test_child_processes_count() -> None:
    assert sys.platform == "linux"  # kilobytes there, bytes elsewhere
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    alone, beside = system.peak_memory()["host_bytes"], system.peak_memory(children=3)["host_bytes"]
    assert alone is not None
    assert beside is not None
    assert beside - alone >= 3 * MIB


@pytest.mark.parametrize(("listed", "context"), [(900 * MIB, 400 * MIB), (None, system.CONTEXT_BYTES), (1 * MIB, 0)])
def test_gpu_memory_is_that_of_tensors_and_context(monkeypatch, listed, context) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 500 * MIB)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 700 * MIB)
    monkeypatch.setattr(system, "gpu_bytes_of", lambda process: listed)
    assert system.peak_memory()["gpu_bytes"] == 700 * MIB + context


@pytest.mark.parametrize(("limit", "expected"), [("1073741824\n", 2**30), ("max\n", None), (f"{2**62}\n", None)])
def test_a_control_group_limits_main_memory(monkeypatch, tmp_path: Path, limit, expected) -> None:
    monkeypatch.setattr(system, "CGROUP_LIMITS", (str(tmp_path / "none"),))
    whole = system.host_memory()
    assert whole > 2**30
    (tmp_path / "limit").write_text(limit)
    monkeypatch.setattr(system, "CGROUP_LIMITS", (str(tmp_path / "none"), str(tmp_path / "limit")))
    assert system.host_memory() == (expected or whole)


# What the driver tells


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch):
    """Makes nvidia-smi say something."""

    def say(text: str, status: int = 0) -> None:
        said = types.SimpleNamespace(stdout=text, returncode=status)
        monkeypatch.setattr(system.shutil, "which", lambda name: f"/usr/bin/{name}")
        monkeypatch.setattr(system.subprocess, "run", lambda *a, **k: said)

    return say


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        ("0", ("NVIDIA A100", 40960 * MIB)),
        ("1", ("NVIDIA H100 80GB HBM3", 81559 * MIB)),
        ("GPU-b2c1-77", ("NVIDIA H100 80GB HBM3", 81559 * MIB)),
        ("GPU-8", ("NVIDIA A100", 40960 * MIB)),
        ("MIG-8a3f", None),
        ("7", None),
        ("2", None),  # the driver does not report its memory
    ],
)
def test_the_model_of_a_gpu(driver, gpu, expected) -> None:
    cards = "0, GPU-8a3f-11, NVIDIA A100, 40960\n1, GPU-b2c1-77, NVIDIA H100 80GB HBM3, 81559\n"
    driver(cards + "2, GPU-c3, NVIDIA GB10, [N/A]\n")
    assert system.gpu_model(gpu) == expected


def test_failing_driver(driver) -> None:
    driver("0, GPU-8a3f-11, NVIDIA A100, 40960\n", status=9)
    assert system.gpu_model("0") is None
    assert system.gpu_bytes_of(1) is None


def test_gpu_memory_of_a_process(driver) -> None:
    driver("17, 1024\n171, 512\n17, 24\n18, [N/A]\n")
    assert system.gpu_bytes_of(17) == 1048 * MIB
    assert system.gpu_bytes_of(18) is None
    assert system.gpu_bytes_of(1) is None
