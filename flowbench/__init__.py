"""flowbench: a benchmark that settles whether one online-RL algorithm beats another.

`import flowbench as fb` gives the Python API (docs/python-api.md): `fb.run`, `fb.load`, `fb.report`, `fb.compare`,
`fb.train`. Importing it loads nothing heavy: each function is imported when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

API = ("compare", "load", "report", "run", "train")
NEIGHBOURS = ("algos", "suites")  # the other two packages of the distribution, installed next to this one


def __getattr__(name: str) -> Any:
    if name not in API:
        raise AttributeError(f"module 'flowbench' has no attribute {name!r}")
    if message := hidden():
        raise ImportError(message)
    return getattr(import_module("flowbench.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *API})


def hidden() -> str:
    """A message if another `algos` or `suites`, such as a folder next to the user's script, hides flowbench's own."""
    for name in NEIGHBOURS:
        own = Path(__file__).resolve().parent.parent / name
        found = sys.modules[name].__spec__ if name in sys.modules else find_spec(name)
        locations = [*(found.submodule_search_locations or ()), found.origin] if found else []
        places = [Path(place).resolve() for place in locations if place]
        if own not in places:
            hides = f"{places[0]} hides" if places else "nothing is found in the place of"
            where = "the import path (PYTHONPATH, or the folder of the script)"
            return f"{hides} the package {name!r} of flowbench ({own}): rename it, or remove its folder from {where}"
    return ""


class FunctionPackage(ModuleType):
    """A package with the name of a function of the API: `flowbench.report(...)` calls `flowbench.api.report(...)`.

    Python sets the attribute `report` of `flowbench` to the package as soon as anything imports it.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(import_module("flowbench.api"), self.__name__.rpartition(".")[2])(*args, **kwargs)
