"""flowbench: a benchmark that settles whether one online-RL algorithm beats another.

`import flowbench as fb` gives the Python API (docs/python-api.md): `fb.run`, `fb.load`, `fb.report`, `fb.compare`,
`fb.train`. Importing it loads nothing heavy: each function is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

API = ("compare", "load", "report", "run", "train")


def __getattr__(name: str) -> Any:
    if name not in API:
        raise AttributeError(f"module 'flowbench' has no attribute {name!r}")
    return getattr(import_module("flowbench.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *API})


class FunctionPackage(ModuleType):
    """A package with the name of a function of the API: `flowbench.report(...)` calls `flowbench.api.report(...)`.

    Python sets the attribute `report` of `flowbench` to the package as soon as anything imports it.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(import_module("flowbench.api"), self.__name__.rpartition(".")[2])(*args, **kwargs)
