"""The digest of the code that an algorithm's behaviour depends on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import algos
from algos import Entry, find, source

MINE = '''"""Mine."""
import os
import helper
from pieces.net import width
from algos.networks import mlp

class Mine:
    """A class."""
    def act(self):
        return helper.f(width)  # a comment
'''


@pytest.fixture
def mine(tmp_path: Path) -> Entry:
    """An algorithm's file, and what it imports from the folder that it lies in."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "helper.py").write_text("from deeper import g\n\ndef f(x):\n    return g(x)\n")
    (tmp_path / "deeper.py").write_text("def g(x):\n    return x + 1\n")
    (tmp_path / "unused.py").write_text("A = 1\n")
    (tmp_path / "pieces").mkdir()
    (tmp_path / "pieces" / "__init__.py").write_text("A = 1\n")
    (tmp_path / "pieces" / "net.py").write_text("from . import sizes\nfrom .sizes import width\n")
    (tmp_path / "pieces" / "sizes.py").write_text("width = 3\n")
    return Entry("mine", f"{tmp_path / 'mine.py'}:Mine")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("mine.py", "helper.f(width)", "0 * helper.f(width)"),
        ("helper.py", "return g(x)", "return -g(x)"),
        ("deeper.py", "x + 1", "x + 1.0"),
        ("pieces/net.py", "from . import sizes", "from . import sizes as other"),
        ("pieces/sizes.py", "3", "4"),
        ("pieces/sizes.py", "3", "(3"),  # a file that cannot be parsed
    ],
)
def test_an_edit_of_the_file_or_of_what_it_imports_changes_it(mine: Entry, name: str, old: str, new: str) -> None:
    before = mine.code()
    path = mine.path.parent / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert mine.code() != before
    path.write_text(text)
    assert mine.code() == before


def test_text_that_changes_no_behaviour_does_not_change_it(mine: Entry, tmp_path: Path) -> None:
    before = mine.code()
    mine.path.write_text(
        MINE.replace('"""Mine."""', "").replace('    """A class."""\n', "").replace("  # a comment", "")
        .replace("import os\n", "\n\nimport  os\n").replace("helper.f(width)", "(helper . f(\n            width,\n))")
    )  # fmt: skip
    for name in ("unused.py", "pieces/__init__.py"):
        (tmp_path / name).write_text("A = 2\n")
    assert mine.code() == before


def test_it_does_not_depend_on_where_the_file_lies(mine: Entry, tmp_path: Path) -> None:
    shutil.copytree(tmp_path, tmp_path / "elsewhere")
    assert Entry("mine", f"{tmp_path / 'elsewhere' / 'mine.py'}:Mine").code() == mine.code()


def test_of_an_algorithm_here_its_modules_count_and_the_others_do_not(tmp_path: Path) -> None:
    shutil.copytree(Path(algos.__file__).parent, tmp_path / "algos")
    names = ("flowrl", "sac", "td3", "qvpo")

    def codes() -> dict[str, str]:
        """As a process sees them whose package `algos` is the copy."""
        code = f"import algos; print(*(algos.find(name).code() for name in {names}))"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return dict(zip(names, done.stdout.split(), strict=True))

    before = codes()
    assert before == {name: find(name).code() for name in names}
    for file, changed in (("sac", {"sac"}), ("flow", {"flowrl"}), ("networks", set(names)), ("__init__", set())):
        path = tmp_path / "algos" / f"{file}.py"
        text = path.read_text()
        path.write_text(f"{text}\nADDED = 1\n")
        now = codes()
        assert {name for name in names if now[name] != before[name]} == changed
        path.write_text(text)


def test_modules_of_algos_count_for_a_file_of_ones_own(mine: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    before = mine.code()
    read = source._read
    monkeypatch.setattr(source, "_read", lambda content: ("other", ()) if b"def mlp" in content else read(content))
    assert mine.code() != before


def test_a_module_of_an_installed_package_and_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "their_agents"
    (package / "nets").mkdir(parents=True)
    for name, text in {
        "__init__.py": "", "mine.py": "from .nets import mlp\nfrom . import nets\n", "nets/__init__.py": "mlp = 1\n",
        "../beside.py": "A = 1\n",
    }.items():  # fmt: skip
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = Entry("mine", "their_agents.mine:Mine")
    before = entry.code()
    (package / "nets" / "__init__.py").write_text("mlp = 2\n")
    assert entry.code() != before
    assert Entry("mine", "their_agents:Mine").code() != before
    assert Entry("mine", "beside:Mine").code()
    assert "their_agents" not in sys.modules
