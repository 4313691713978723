"""The house as it stands in the sources: which way imports go, and what is shipped. Imports none of it."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("algos", "flowbench", "suites")
HEAVY = {"torch", "pandas", "mujoco", "dm_control", "numpy", "gymnasium", "scipy", "rliable", "arch", "joblib", "yaml"}
LIGHT_OF_FLOWBENCH = {"flowbench.__version__", "flowbench.hidden", "flowbench"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[str]:
    """The full names of what a piece of source imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def of_module_level(path: Path) -> Iterator[str]:
    """What is imported with a module: nothing inside functions, nothing for type checkers alone."""

    def visit(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, (ast.Import, ast.ImportFrom)):
                yield from imports(child)
            else:
                yield from visit(child)

    return visit(ast.parse(path.read_text(encoding="utf-8")))


# Which package may import which. Everything may use `common`; nothing imports upward.
ARROWS = {
    "__main__": {"cli"},  # `python -m flowbench`
    "cli": {
        "algos", "api", "bench", "check", "doctor", "evaluate", "experiments", "flowbench", "interop", "monitor",
        "plan", "report", "store", "suites",
    },
    "api": {"algos", "grid", "learners", "plan", "report", "schedule", "store", "suites", "train"},
    "check": {"algos", "bench", "learners", "plan"},
    "experiments": {"algos", "bench", "grid", "plan", "report", "store", "suites"},
    "grid": {"algos", "plan", "schedule", "stats", "store", "suites", "train"},
    "schedule": {"plan", "store", "worker"},  # of worker its protocol alone
    "worker": {"algos", "learners", "plan", "store", "suites", "train"},
    "evaluate": {"algos", "plan", "schedule", "store", "suites", "train"},
    "bench": {"algos", "learners", "plan", "suites", "train"},
    "interop": {"plan", "stats", "store", "suites"},
    "report": {"flowbench", "stats", "store"},
    "monitor": {"store"},
    "doctor": {"store", "suites"},
    "train": {"algos", "flowbench", "learners", "plan"},
    "learners": {"algos"},
    "store": {"algos", "flowbench", "plan", "suites"},
    "stats": set(),
    "plan": {"algos", "suites"},
    "common": {"flowbench"},
    "algos": set(),
    "suites": set(),
    "flowbench": set(),  # the package itself: its version, and the names of `api`, which it imports at their first use
}  # fmt: skip
LARGEST_PACKAGE, LARGEST_FILE = 2500, 450  # lines


def node(name: str) -> str | None:
    """The package that a full name belongs to; None for one of a library."""
    first, *rest = name.split(".")
    if first in ("algos", "suites"):
        return first
    if first != "flowbench":
        return None
    return rest[0] if rest and rest[0] in ARROWS else "flowbench"


def arrows() -> dict[str, dict[str, list[str]]]:
    """For each package, the packages that it imports anywhere, with the files that do."""
    found: dict[str, dict[str, list[str]]] = {}
    for package in PACKAGES:
        for path in sources(package):
            own = node(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
            assert own is not None
            for name in imports(ast.parse(path.read_text(encoding="utf-8"))):
                other = node(name)
                if other not in (None, own):
                    found.setdefault(own, {}).setdefault(str(other), []).append(str(path.relative_to(ROOT)))
    return found


def test_imports_follow_the_allowed_arrows_and_use_each() -> None:
    found = arrows()
    for package, targets in found.items():
        for target, files in targets.items():
            assert target in ARROWS[package] | {"common"}, f"{package} imports {target}: {sorted(set(files))}"
    unused = {package: targets - found.get(package, {}).keys() for package, targets in ARROWS.items()}
    assert not any(unused.values()), unused
    # The name in a string, as importlib takes it, is an import all the same.
    for package in ("algos", "suites"):
        for path in sources(package):
            named = set(re.findall(r"import_module\(f?[\"'](\w+)", path.read_text(encoding="utf-8")))
            assert not named & (set(PACKAGES) - {package}), path


def test_the_scheduler_knows_of_a_worker_its_protocol_alone() -> None:
    names = {name for path in (ROOT / "flowbench" / "schedule").rglob("*.py") for name in of_module_level(path)}
    assert {name for name in names if name.startswith("flowbench.worker")} == {"flowbench.worker.protocol"}


def test_the_packages_have_no_cycle() -> None:
    graph = {package: set(targets) for package, targets in arrows().items()}
    assert list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_packages_and_files_stay_small() -> None:
    sizes: dict[str, int] = {}
    for package in PACKAGES:
        for path in sources(package):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            assert lines <= LARGEST_FILE, f"{path.relative_to(ROOT)} has {lines} lines"
            name = str(node(".".join(path.relative_to(ROOT).with_suffix("").parts)))
            sizes[name] = sizes.get(name, 0) + lines
    assert max(sizes.values()) <= LARGEST_PACKAGE, sizes


def test_tests_mirror_the_packages() -> None:
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.glob("test_*.py"))}
    assert folders - {"faults"} <= ARROWS.keys()


def test_an_algorithm_of_its_own_needs_algos_alone() -> None:
    path = ROOT / "tests" / "support" / "example_algorithm.py"
    assert not {name.partition(".")[0] for name in of_module_level(path)} & {"flowbench", "suites"}


def test_the_package_alone_imports_nothing_heavy() -> None:
    code = "import sys, flowbench; dir(flowbench); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.strip("'[],\n") for name in done.stdout.split()}
    assert "flowbench" in loaded
    assert not loaded & (HEAVY | {"algos", "suites", "typer", "rich", "flowbench.api"})


def test_the_command_line_is_light() -> None:
    files = [ROOT / "flowbench" / "__init__.py", *(ROOT / "flowbench" / "cli").glob("*.py")]
    names = {name for path in files for name in of_module_level(path)}
    assert "typer" in names
    assert not {name.partition(".")[0] for name in names} & HEAVY
    own = {name for name in names if name.partition(".")[0] in PACKAGES and not name.startswith("flowbench.cli")}
    assert own <= LIGHT_OF_FLOWBENCH, f"module-level imports of the harness's own rooms: {own - LIGHT_OF_FLOWBENCH}"


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


def test_what_is_not_python_is_shipped() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (section,) = re.findall(r"^\[tool\.setuptools\.package-data\]\n(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
    shipped = dict(re.findall(r"^(\w+) = \[(.*)\]$", section, re.MULTILINE))
    for package in PACKAGES:
        patterns = re.findall(r'"([^"]+)"', shipped[package])
        there = {
            path.relative_to(ROOT / package)
            for path in (ROOT / package).rglob("*")
            if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts
        }
        matched = {path for path in there if any(path.match(pattern) for pattern in patterns)}
        assert there == matched, f"{package}: not shipped: {sorted(map(str, there - matched))}"
    assert any(path.suffix == ".yaml" for path in (ROOT / "suites").iterdir())
    assert '"*.yaml"' in shipped["suites"]


def test_packages_with_folders_in_them_are_found() -> None:
    for package in PACKAGES:
        for path in sources(package):
            assert (path.parent / "__init__.py").is_file(), f"{path.parent.relative_to(ROOT)} is no package"
