"""What a run ran on."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import types
from pathlib import Path

import numpy
import pytest
import torch

import flowbench
from flowbench.common import system


def test_versions_are_those_that_are_installed() -> None:
    found = system.versions()
    assert found["torch"] == torch.__version__
    assert found["numpy"] == numpy.__version__
    assert found["python"] == platform.python_version()
    assert found["flowbench"] == flowbench.__version__
    assert {"mujoco", "dm_control", "gymnasium", "commit"} <= found.keys()
    json.dumps(found)


def test_a_package_that_is_missing_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "PACKAGES", ("no-such-package",))
    assert system.versions()["no-such-package"] is None


def test_the_commit_that_a_package_was_installed_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "robots-0.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: robots\nVersion: 0.2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert system.versions(["robots"])["robots"] == "0.2"
    origin = {"url": "https://example.org/robots", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}
    (info / "direct_url.json").write_text(json.dumps(origin))
    assert system.versions(["robots"])["robots"] == "0.2+c0ffee"
    assert "robots" not in system.versions()
    monkeypatch.setattr(system, "_commit", lambda root: f"head-of-{root.name}")
    for editable, expected in ((True, "0.2+head-of-my robots"), (False, "0.2")):
        origin = {"url": "file:///src/my%20robots", "dir_info": {"editable": editable}}
        (info / "direct_url.json").write_text(json.dumps(origin))
        assert system.versions(["robots"])["robots"] == expected
    assert system.versions(["no-such-package"])["no-such-package"] is None


def pretend_installed(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    (root / "flowbench").mkdir()
    monkeypatch.setattr(system.flowbench, "__file__", str(root / "flowbench" / "__init__.py"))


def test_the_commit_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, tmp_path)
    assert system.git_commit() is None

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    assert system.git_commit() is None  # nothing is committed yet
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "one")
    git("tag", "-a", "v1", "-m", "v1")
    assert system.git_commit() == git("rev-parse", "HEAD").strip()
    (tmp_path / "file").write_text("2")
    assert system.git_commit() == git("rev-parse", "HEAD").strip() + "-dirty"


def test_the_index_of_a_checkout_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is killed while git writes the index would leave its lock, and git would refuse to commit."""
    pretend_installed(monkeypatch, tmp_path)
    (tmp_path / "file").touch()
    for words in ("init -q", "add file", "-c user.name=A -c user.email=a@b -c commit.gpgsign=false commit -qm one"):
        subprocess.run(["git", *words.split()], cwd=tmp_path, check=True, capture_output=True)
    os.utime(tmp_path / "file", (1, 1))  # git would note the new time
    before = (tmp_path / ".git" / "index").read_bytes()
    assert system.git_commit()
    assert (tmp_path / ".git" / "index").read_bytes() == before


def test_no_commit_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, tmp_path)
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert system.git_commit() is None


def test_the_processor_has_a_name_and_cores() -> None:
    assert system.cpu_model().strip()
    assert "\n" not in system.cpu_model()
    assert system.cores() >= 1


@pytest.mark.parametrize(
    ("visible", "shown"),
    [("", []), ("-1", []), ("0", ["0"]), ("0,1, 3", ["0", "1", "3"]), ("GPU-8a3f,MIG-b2c1", ["GPU-8a3f", "MIG-b2c1"])],
)
def test_graphics_cards_that_the_environment_shows(
    visible: str, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert system.gpus() == shown


@pytest.mark.parametrize(
    ("listed", "status", "shown"),
    [("GPU 0: NVIDIA H100 (UUID: GPU-1)\n  MIG 1g.10gb Device 0:\nGPU 1: NVIDIA H100 (UUID: GPU-2)\n", 0, ["0", "1"]),
     ("No devices found.\n", 0, []), ("GPU 0: stale\n", 9, []), (None, 0, [])],  # without a driver
)  # fmt: skip
def test_graphics_cards_that_the_driver_lists(
    listed: str | None, status: int, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(system.shutil, "which", lambda name: listed and f"/usr/bin/{name}")
    monkeypatch.setattr(
        system.subprocess, "run", lambda *a, **k: types.SimpleNamespace(stdout=listed, returncode=status)
    )
    assert system.gpus() == shown


def test_the_version_is_a_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", flowbench.__version__)


@pytest.mark.parametrize(
    ("vendor", "family", "flags", "named"),
    [
        ("AuthenticAMD", 25, "avx2 avx512f avx512_bf16", "Zen 4, AVX-512, AVX512-BF16"),
        ("AuthenticAMD", 25, "avx2", "Zen 3, AVX2"),
        ("AuthenticAMD", 26, "avx2 avx512f avx512_bf16", "Zen 5, AVX-512, AVX512-BF16"),
        ("GenuineIntel", 6, "avx2 avx512f avx512_bf16 amx_bf16", "AVX-512, AVX512-BF16, AMX"),
        ("GenuineIntel", 25, "avx2", "AVX2"),
    ],
)
def test_generation_of_a_processor(tmp_path: Path, vendor: str, family: int, flags: str, named: str) -> None:
    core = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel name\t: X\nflags\t\t: fpu {flags}\n\n"
    (tmp_path / "cpuinfo").write_text(2 * core)
    assert system.cpu_generation(tmp_path / "cpuinfo") == named
    assert system.cpu_vendor(tmp_path / "cpuinfo") == vendor


def test_generation_of_an_unknown_processor(tmp_path: Path) -> None:
    assert system.cpu_generation(tmp_path / "none") == platform.machine()
    assert system.cpu_vendor(tmp_path / "none") == ""
