"""The request for a grid: options of `flowbench run`, or keys of a YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import suites
from flowbench.common.errors import UsageError, unknown
from flowbench.plan.cells import Cell
from flowbench.plan.expand import expand, parse_auto
from flowbench.plan.overrides import split_outside_brackets


@dataclass(frozen=True)
class Request:
    """A requested grid; the names in it are not checked yet."""

    suite: str | None = None
    env: str | None = None
    algo: list[str] = field(default_factory=list)
    task: list[str] = field(default_factory=list)
    seeds: str | None = None
    steps: int | None = None
    set: list[str] = field(default_factory=list)

    @staticmethod
    def merge(file: Path | None, **given: Any) -> Request:
        """The request in a YAML file, if there is one; the arguments given here replace its keys."""
        read = _read_grid(file) if file else {}
        own = {key: list(value) if isinstance(value, (tuple, range)) else value for key, value in given.items()}
        own = {key: value for key, value in own.items() if value not in (None, [])}
        return Request._checked({**read, **_as_options(own, "arguments")})

    @staticmethod
    def of(keys: Mapping[str, Any], where: str) -> Request:
        """The request from keys and values as in a YAML file. Errors begin with `where`."""
        return Request._checked(_as_options(keys, where))

    @staticmethod
    def _checked(keys: Mapping[str, Any]) -> Request:
        request = Request(**keys)
        if not (request.suite or request.env):
            hint = "name a suite with --suite (flowbench list suites shows them), or a gymnasium id with --env"
            raise UsageError(f"nothing to run: {hint}")
        if request.suite and request.env:
            raise UsageError(f"--suite {request.suite} has tasks of its own: leave out --env {request.env}")
        if not request.algo:
            raise UsageError("nothing to run: name an algorithm with --algo (flowbench list algos shows them)")
        return request

    @property
    def auto(self) -> int | None:
        """The maximum number of seeds with `--seeds auto:N`; None if the seeds are fixed."""
        return parse_auto(self.seeds or "")

    def cells(self) -> list[Cell]:
        """The cells of the grid; with `--seeds auto:N`, all that it may need."""
        return expand(
            suites.single(self.env, self.steps) if self.env else self.suite or "",
            self.algo,
            "5" if self.seeds is None else self.seeds,
            tasks=[name.strip() for text in self.task for name in text.split(",")],
            steps=self.steps,
            settings=self.set,
        )


def selected(suite: Sequence[str], algo: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of suites and algorithms, written as for `flowbench run`: also a suite's file, also "sac,td3"."""
    suite_names = [Path(name).stem if name.endswith((".yaml", ".yml")) else name for name in suite]
    return suite_names, [name for text in algo for name in split_outside_brackets(text)]


def _read_grid(file: Path) -> dict[str, Any]:
    """The keys of a grid file, with values of the types that the options have."""
    try:
        read = suites.read_yaml(file)
    except suites.SuiteError as error:
        raise UsageError(f"grid file {str(file)!r}: {error}") from error
    if not isinstance(read, dict):
        raise UsageError(f"grid file {str(file)!r} must contain keys such as suite and algo, not {type(read).__name__}")
    return _as_options(read, f"grid file {str(file)!r}")


def _as_options(keys: Mapping[str, Any], where: str) -> dict[str, Any]:
    known = [each.name for each in fields(Request)]
    for key in keys:
        if key not in known:
            raise UsageError(f"{where}: {unknown('key', str(key), known)}")
    return {key: _as_option(value, key, f"{where}: {key}") for key, value in keys.items()}


def _as_option(value: Any, key: str, where: str) -> Any:
    if key in ("algo", "task", "set"):
        items = [f"{k}={v}" for k, v in value.items()] if isinstance(value, dict) else value
        items = [items] if isinstance(items, str) else items
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise UsageError(f"{where} must be text or a list of texts")
        return items
    if key == "seeds":
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, (int, str)) and not isinstance(part, bool) for part in parts):
            raise UsageError(f"{where} must be a count, a range or a list of numbers")
        text = ",".join(map(str, parts))
        return f"{text}-{text}" if isinstance(value, list) and len(value) == 1 and text.isdecimal() else text
    if key == "steps" and isinstance(value, float) and value.is_integer():
        return int(value)
    wanted = int if key == "steps" else str
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise UsageError(f"{where} must be {'an integer' if wanted is int else 'text'}, got {value!r}")
    return value
