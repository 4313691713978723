"""The house as it stands in the sources: which way imports go, and what is shipped. Imports none of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("algos", "flowbench", "suites")
HEAVY = {"torch", "pandas", "mujoco", "dm_control", "numpy", "gymnasium", "scipy", "rliable", "arch", "joblib", "yaml"}
LIGHT_OF_FLOWBENCH = {"flowbench.__version__", "flowbench"}


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


@pytest.mark.parametrize(
    ("package", "forbidden"), [("algos", {"flowbench", "suites"}), ("suites", {"flowbench", "algos"})]
)
def test_arrows_go_one_way(package: str, forbidden: set[str]) -> None:
    found = sources(package)
    assert len(found) > 3
    for path in found:
        # Also the imports inside functions, and of type checkers.
        names = {name.partition(".")[0] for name in imports(ast.parse(path.read_text(encoding="utf-8")))}
        assert not names & forbidden, f"{path.relative_to(ROOT)} imports {names & forbidden}"
    # The name in a string, as importlib takes it, is an import all the same.
    texts = {path: re.findall(r"import_module\(f?[\"'](\w+)", path.read_text(encoding="utf-8")) for path in found}
    assert not {name for names in texts.values() for name in names} & forbidden


def test_an_algorithm_of_its_own_needs_algos_alone() -> None:
    path = ROOT / "tests" / "flowbench" / "example_algorithm.py"
    assert not {name.partition(".")[0] for name in of_module_level(path)} & {"flowbench", "suites"}


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
