"""A user's own `algos` or `suites` on the import path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import flowbench

ROOT = Path(flowbench.__file__).parents[1]
CLI = ["-m", "flowbench.cli", "list", "suites"]


def python(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Python with a folder before flowbench on its path."""
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "PYTHONSAFEPATH": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)


@pytest.mark.parametrize("own", ["algos/__init__.py", "suites/__init__.py", "algos.py"])
def test_packages_that_hide_those_of_flowbench_are_an_error(own: str, tmp_path: Path) -> None:
    path = tmp_path / own
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    name = own.partition("/")[0].removesuffix(".py")
    done = python(CLI, tmp_path)
    shown = path if own == "algos.py" else path.parent
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"flowbench: {shown} hides the package {name!r} of flowbench ({ROOT / name}): rename")
    assert done.stderr.count("\n") == 1
    # From a script, also if it has imported its own package before.
    for before in ("", f"import {name}; "):
        done = python(["-c", f"{before}import flowbench as fb; fb.load('results')"], tmp_path)
        assert done.stderr.splitlines()[-1].startswith(f"ImportError: {shown} hides the package {name!r}")


def test_a_folder_that_hides_nothing_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "algos").mkdir()  # no package: Python prefers flowbench's
    (tmp_path / "algos" / "mine.py").write_text("")
    done = python(CLI, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert flowbench.hidden() == ""


def test_a_worker_imports_nothing_from_the_current_folder(tmp_path: Path) -> None:
    """The scheduler sets PYTHONSAFEPATH, which Python 3.10 does not know."""
    for name in ("algos", "suites", "json"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} of the current folder')")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "flowbench.worker", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert "of the current folder" not in done.stderr
    assert "nowhere" in done.stderr
