"""Reads a suite from YAML. The message for a mistake is one line that names the file and the key."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from suites.sources import SOURCES, adapter
from suites.task import Evaluation, Score, Suite, SuiteError, Task, unknown

T = TypeVar("T")

_FOLDER = Path(__file__).parent
_SHIPPED = (
    "quick",
    "small",
    "dmc-easy",
    "dmc-medium",
    "dmc-hard",
    "humanoid-bench",
    "flowrl-paper",
)  # the cheapest first

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
# A task's name becomes part of a path. Each component starts with a letter or a digit, so none is `..`.
_TASK = re.compile(r"[A-Za-z0-9][\w.-]*([/:][A-Za-z0-9][\w.-]*)*", re.ASCII)

_REQUIRED = ("title", "steps", "evaluation", "tasks")
_TASK_KEYS = ("source", "action_repeat", "score", "env_args")
_KEYS = (*_REQUIRED, *_TASK_KEYS, "overrides", "comparable", "note")


def names() -> list[str]:
    """The suites that are part of flowbench."""
    return list(_SHIPPED)


def load(name_or_path: str, check_tasks: bool = True) -> Suite:
    """A suite of flowbench by its name, or the user's own by the path of its .yaml file.

    With `check_tasks`, each task must exist in its source, which may import a simulator. Raises SuiteError.
    """
    if not _is_path(name_or_path):
        if name_or_path not in _SHIPPED:
            raise unknown("suite", name_or_path, _SHIPPED)
        path = _FOLDER / f"{name_or_path}.yaml"
    else:
        path = Path(name_or_path)
    with _at(str(path)):
        data = read_yaml(path)
        if not _NAME.fullmatch(path.stem):
            raise SuiteError(f"{path.stem!r}, the name of the suite, may contain only a-z, 0-9, _ and -")
        if path.stem in _SHIPPED and not path.samefile(_FOLDER / f"{path.stem}.yaml"):
            raise SuiteError(f"{path.stem!r} is the name of a suite of flowbench; rename the file")
        return _suite(path.stem, data, check_tasks)


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) or any(mark in name for mark in (os.sep, os.altsep) if mark)


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Prefix a SuiteError raised inside with `where`: the message becomes file: key: key: reason."""
    try:
        yield
    except SuiteError as error:
        raise SuiteError(f"{where}: {error}") from error


# YAML syntax


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also rejects a key given twice and reads 1e-4 as a number."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise SuiteError(f"line {key.start_mark.line + 1}: key {key.value!r} is given twice")
                seen.add(key.value)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises SuiteError, in one line, if it cannot be read."""
    try:
        return yaml.load(path.read_bytes().decode("utf-8-sig"), _Loader)
    except SuiteError:
        raise
    except OSError as error:
        raise SuiteError(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SuiteError(f"is not UTF-8 text (byte {error.start})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise SuiteError(f"{where}not YAML: {_line(getattr(error, 'problem', None) or error)}") from error
    except (ValueError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML raises these for a date such as 2024-13-45, for a wrong tag, and for endless nesting.
        raise SuiteError(f"not YAML: {_line(error)}") from error


def _line(error: object) -> str:
    return " ".join(str(error).split())


# The content


def _suite(name: str, value: Any, check_tasks: bool) -> Suite:
    data = _mapping(value, _KEYS, _REQUIRED)
    steps = _field(data, "steps", _count)
    evaluation = _field(data, "evaluation", _evaluation)
    if evaluation.every > steps:
        raise SuiteError(f"evaluation: every: {evaluation.every} is more than the suite's {steps} steps")
    readers: dict[str, Callable[[Any], Any]] = {
        "source": _source,
        "action_repeat": _count,
        "score": _bounds,
        "env_args": _env_args,
    }
    defaults = {key: _field(data, key, readers[key]) for key in _TASK_KEYS if key in data}
    tasks: dict[str, Task] = {}
    with _at("tasks"):
        for task, settings in _items(data["tasks"]):
            if task in tasks:
                raise SuiteError(f"{task!r} is listed twice")
            with _at(task):
                own = {key: _field(settings, key, readers[key]) for key in settings}
                tasks[task] = _task(task, own, defaults)
                if check_tasks:
                    adapter(tasks[task].source).check(task)
    return Suite(
        name=name,
        title=_field(data, "title", _title),
        tasks=tuple(tasks.values()),
        steps=steps,
        evaluation=evaluation,
        overrides=_field(data, "overrides", _overrides, {}),
        comparable=_field(data, "comparable", _flag, True),
        note=_field(data, "note", _text, ""),
    )


def _items(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The names in `tasks`, each with its own settings: an item is `- name`, or `- name: {setting: value}`."""
    if not isinstance(value, list):
        raise _wrong("a list (- name, or - name: {setting: value})", value)
    if not value:
        raise SuiteError("must name at least one task")
    for item in value:
        if isinstance(item, dict) and len(item) != 1:
            raise _wrong("a name, or a name with its settings indented below it", item)
        name, settings = next(iter(item.items())) if isinstance(item, dict) else (item, {})
        if not isinstance(name, str) or not _TASK.fullmatch(name):
            raise _wrong("the name of a task", name)
        with _at(name):
            yield name, _mapping(settings, _TASK_KEYS)


def _task(name: str, own: dict[str, Any], defaults: dict[str, Any]) -> Task:
    """A task from its own settings and the suite's defaults, which apply to each bound of a score separately."""
    settings = {**defaults, **own}
    bounds = {**defaults.get("score", {}), **own.get("score", {})}
    missing = [key for key in ("source", "action_repeat") if key not in settings]
    missing += [f"score {bound}" for bound in ("low", "high") if bound not in bounds]
    if missing:
        raise SuiteError(f"has no {missing[0]}; set it here, or for all tasks at the top of the file")
    arguments = {**defaults.get("env_args", {}), **own.get("env_args", {})}
    if arguments and settings["source"] != "gymnasium":
        raise SuiteError(f"env_args: only gymnasium environments take arguments, not {settings['source']}")
    with _at("score"):
        return Task(name, settings["source"], settings["action_repeat"], Score(**bounds), arguments)


# Values: each function returns the value from YAML or raises SuiteError


def _field(data: dict[str, Any], key: str, read: Callable[[Any], T], *default: T) -> T:
    if default and key not in data:
        return default[0]
    with _at(key):
        return read(data[key])


def _wrong(expected: str, value: object) -> SuiteError:
    shown = "nothing" if value is None else repr(value)
    return SuiteError(f"must be {expected}, got {shown if len(shown) <= 60 else shown[:57] + '...'}")


def _mapping(value: Any, known: Collection[str] | None = None, required: Collection[str] = ()) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong("a mapping (key: value)", value)
    for key in value:
        if known is not None and key not in known:
            raise unknown("key", key, known)
        if not isinstance(key, str):
            raise SuiteError(f"a key must be text, got {key!r}")
    for key in required:
        if key not in value:
            raise SuiteError(f"key {key!r} is missing")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong("text", value)
    return value.strip()


def _title(value: Any) -> str:
    if not (title := _text(value)):
        raise SuiteError("must not be empty")
    return title


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong("true or false", value)
    return value


def _count(value: Any) -> int:
    # Exact types: in Python a bool is an int, and 1e6 is a float, which may be a mistake.
    if type(value) is not int or value < 1:
        raise _wrong("a whole number of at least 1, written out as in 1_000_000", value)
    return value


def _number(value: Any) -> float:
    # The comparison is False for NaN and for integers that are too large for a float.
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
        raise _wrong("a finite number", value)
    return float(value)


def _source(value: Any) -> str:
    if (name := _text(value)) not in SOURCES:
        raise unknown("source", name, SOURCES)
    return name


def _bounds(value: Any) -> dict[str, float]:
    data = _mapping(value, ("low", "high"))
    return {key: _field(data, key, _number) for key in data}


def _env_args(value: Any) -> dict[str, Any]:
    data = _mapping(value)
    for key, argument in data.items():
        if not key.isidentifier() or key in ("id", "render_mode", "max_episode_steps", "disable_env_checker"):
            raise SuiteError(f"{key!r} cannot be an argument of an environment here")
        with _at(key):
            try:
                json.dumps(argument, allow_nan=False)
            except (TypeError, ValueError):
                raise _wrong("text, a finite number, true, false, or a list or mapping of these", argument) from None
    return data


def _evaluation(value: Any) -> Evaluation:
    data = _mapping(value, ("every", "episodes"), ("every", "episodes"))
    return Evaluation(_field(data, "every", _count), _field(data, "episodes", _count))


def _overrides(value: Any) -> dict[str, dict[str, Any]]:
    data = _mapping(value)
    return {algorithm: _field(data, algorithm, _mapping) for algorithm in data}
