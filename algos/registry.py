"""Finds algorithms in the table of this package, in entry points of installed packages, and in files.

An algorithm's module is imported only when it is loaded. Listings read its docstring without importing it.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from algos import source

if TYPE_CHECKING:
    from algos.agent import Agent

GROUP = "flowbench.algos"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


class AlgorithmError(ValueError):
    """An algorithm does not exist, cannot be loaded, or has a name that is in use."""


@dataclass(frozen=True)
class Entry:
    """The location of an algorithm: `target` is "module:Class" or "path/to/file.py:Class"."""

    name: str
    target: str

    @property
    def path(self) -> Path | None:
        """The file of an algorithm that is given by path, else None."""
        module = self.target.rpartition(":")[0]
        return Path(module) if module.endswith(".py") else None

    def load(self) -> type[Agent[Any]]:
        """Import the class. Raises AlgorithmError if that fails or the class is not an `Agent`."""
        from algos.agent import Agent, Config

        where, _, attribute = self.target.rpartition(":")
        try:
            module = _import_file(self.path) if self.path else importlib.import_module(where)
        except (Exception, SystemExit) as error:  # third-party modules may raise anything
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if self.path and frame.filename == str(self.path)]
            line = f" (line {lines[-1]})" if lines else ""
            raise AlgorithmError(
                f"algorithm {self.target!r} cannot be imported: {type(error).__name__}: {error}{line}"
            ) from error
        found = getattr(module, attribute, None)
        if not (isinstance(found, type) and issubclass(found, Agent)):
            choices = [
                k for k, v in vars(module).items() if isinstance(v, type) and issubclass(v, Agent) and v is not Agent
            ]
            raise AlgorithmError(f"{where} has no Agent named {attribute!r}{_choices(attribute, choices)}")
        config = getattr(found, "Config", None)
        if not (isinstance(config, type) and issubclass(config, Config)):
            raise AlgorithmError(f"{self.target}: the class must set Config to a subclass of algos.agent.Config")
        return found

    def digest(self) -> str | None:
        """SHA-256 of a third-party algorithm's file, as edited code is another variant; None for algorithms here."""
        if self.target.startswith("algos."):
            return None
        try:
            return hashlib.sha256(self._file().read_bytes()).hexdigest()
        except OSError as error:
            raise AlgorithmError(f"algorithm {self.name!r}: {self.target} cannot be read: {error}") from error

    def code(self) -> str:
        """A digest of the code that its behaviour depends on: see `algos.source.digest`. Raises AlgorithmError."""
        main, name = self._source(), self.target.rpartition(":")[0]
        if self.path:
            return source.digest(main, "", main.parent)
        return source.digest(main, name, main.parents[name.count(".") + (main.name == "__init__.py")])

    def about(self) -> tuple[str, str]:
        """The first line and the paper (paragraph "Paper: ...") of the module's docstring, without importing it.

        Raises AlgorithmError when the module is not installed or cannot be read.
        """
        try:
            text = ast.get_docstring(ast.parse(self._file().read_bytes())) or ""
        except (OSError, SyntaxError, ValueError) as error:
            raise AlgorithmError(f"algorithm {self.name!r}: {self.target} cannot be read: {error}") from error
        paper = re.search(r"^Paper:\s*(.+?)(?=\n[A-Z]\w*: |\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
        return text.partition("\n")[0], " ".join(paper[1].split()) if paper else ""

    def hyperparameters(self) -> list[str]:
        """The names of its hyperparameters, read from the source: fields of its file's Config classes and of `Config`.

        It imports nothing, so fields from other modules are missing. Raises AlgorithmError.
        """
        names: dict[str, None] = {}
        for path in (self._source(), Path(__file__).with_name("agent.py")):
            for node in ast.parse(path.read_bytes()).body:
                if isinstance(node, ast.ClassDef) and node.name.endswith("Config"):
                    fields = [each.target for each in node.body if isinstance(each, ast.AnnAssign)]
                    names.update(dict.fromkeys(each.id for each in fields if isinstance(each, ast.Name)))
        return list(names)

    def _source(self) -> Path:
        """The source file. Raises AlgorithmError if there is none."""
        try:
            return self._file()
        except OSError as error:
            raise AlgorithmError(f"algorithm {self.name!r}: {self.target} cannot be read: {error}") from error

    def _file(self) -> Path:
        """The source file, found without importing the module or its parent packages."""
        if self.path:
            return self.path
        top, *rest = self.target.rpartition(":")[0].split(".")
        spec = importlib.util.find_spec(top)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"{top} is not installed")
        if not rest:
            return Path(spec.origin)
        below = Path(spec.origin).parent.joinpath(*rest)
        return below / "__init__.py" if below.is_dir() else below.with_suffix(".py")


def entries() -> dict[str, Entry]:
    """Every known algorithm by name. Raises AlgorithmError if two have the same name."""
    from algos import ALGORITHMS

    found = {name: Entry(name, target) for name, target in ALGORITHMS.items()}
    for point in entry_points(group=GROUP):
        target = f"{point.module}:{point.attr}"
        if point.name in found and found[point.name].target != target:
            raise AlgorithmError(
                f"two algorithms are named {point.name!r}: {found[point.name].target} and {target} "
                f"(an entry point of {point.dist.name if point.dist else 'an installed package'}); rename one"
            )
        if not NAME.fullmatch(point.name):
            raise AlgorithmError(f"entry point {point.name!r} of {GROUP}: a name may contain only a-z, 0-9, _ and -")
        found[point.name] = Entry(point.name, target)
    return found


def names() -> list[str]:
    """The names of all known algorithms, those of this package first."""
    return list(entries())


def find(spec: str) -> Entry:
    """The algorithm with the name `spec`, or the one in "path/to/file.py:Class", named after its class in lower case.

    Raises AlgorithmError with the choices if there is none.
    """
    known = entries()
    if spec in known:
        return known[spec]
    where, _, attribute = spec.rpartition(":")
    if not where.endswith(".py"):
        hint = "; to use your own algorithm, give path/to/file.py:Class"
        raise AlgorithmError(f"unknown algorithm {spec!r}{_choices(spec, known)}{hint}")
    path = Path(where).expanduser().resolve()
    if not path.is_file():
        raise AlgorithmError(f"algorithm {spec!r}: file {path} does not exist")
    name = attribute.lower()
    if not NAME.fullmatch(name):
        raise AlgorithmError(f"algorithm {spec!r}: {attribute!r} is not a valid class name")
    if name in known:
        raise AlgorithmError(f"algorithm {spec!r}: the name {name!r} is used by {known[name].target}; rename the class")
    return Entry(name, f"{path}:{attribute}")


def _choices(word: str, choices: Any) -> str:
    near = difflib.get_close_matches(word, list(choices), n=1) or [c for c in choices if c.lower() == word.lower()]
    return (f"; did you mean {near[0]!r}?" if near else "") + f" (choices: {', '.join(choices) or 'none'})"


def _import_file(path: Path | None) -> Any:
    assert path is not None
    identity = str(path).encode() + path.read_bytes()  # an edited file becomes another module
    name = f"flowbench_file_{hashlib.sha256(identity).hexdigest()[:12]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses need it there
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
