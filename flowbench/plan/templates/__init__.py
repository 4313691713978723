"""The files that `flowbench new` writes: an algorithm and a suite that work as they are, to be changed."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path

import algos
import suites
from flowbench.common.errors import UsageError

HERE = Path(__file__).parent


@dataclass(frozen=True)
class NewFile:
    """A file that was written, and the command that tries it."""

    path: Path
    command: str


def new_algorithm(name: str, folder: Path) -> NewFile:
    """Write `<name>.py`, in lower case, with a class of this name. Raises UsageError."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or iskeyword(name.lower()):
        raise UsageError(
            f"{name!r} is not a name of an algorithm: use letters, digits and _, such as my_agent or MyAgent"
        )
    parts = [part for part in name.split("_") if part]
    label = "".join(part[0].upper() + part[1:] for part in parts)
    known = algos.names()
    if label.lower() in known:
        raise UsageError(
            f"there is an algorithm {label.lower()!r} already: choose another name than {', '.join(known)}"
        )
    path = folder / f"{name.lower()}.py"
    if not path.exists() and (path.stem in sys.stdlib_module_names or find_spec(path.stem)):
        raise UsageError(f"{name!r}: a file {path.name} could hide the module {path.stem!r}; choose another name")
    text = (HERE / "algorithm.py").read_text(encoding="utf-8")
    if re.search(rf"^from .* import .*\b{label}\b", text, re.MULTILINE):
        raise UsageError(f"{name!r}: the file imports a class {label}; choose another name")
    text = text.replace("Template", label)
    return _written(path, text, f"flowbench run --suite quick --algo {path}:{label} --seeds 2")


def new_suite(name: str, folder: Path) -> NewFile:
    """Write `<name>.yaml`. Raises UsageError."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise UsageError(f"{name!r} is not a name of a suite: use a-z, 0-9, _ and -, such as my-suite")
    if name in suites.names():
        raise UsageError(f"there is a suite {name!r} already: choose another name than {', '.join(suites.names())}")
    path = folder / f"{name}.yaml"
    text = (HERE / "suite.yaml").read_text(encoding="utf-8")
    return _written(path, text, f"flowbench run --suite {path} --algo sac --seeds 2")


def _written(path: Path, text: str, command: str) -> NewFile:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{str(path)!r} exists already, and nothing is overwritten: choose another name") from None
    return NewFile(path, command)
