"""Hyperparameters from text: `name[key=value,...]` and `--set key=value`, converted to the types of a dataclass."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal, Union

from flowbench.common.errors import UsageError, unknown

BRACKETED = re.compile(r"(?P<name>[^\[\]]+?)(?:\[(?P<overrides>[^\[\]]*)\])?")

NONE = ("none", "None", "null")
BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def split_outside_brackets(text: str) -> list[str]:
    """Split at commas outside square brackets: "a[x=1,y=2],b" has two parts."""
    parts, depth, current = [], 0, ""
    for char in text:
        depth += (char == "[") - (char == "]")
        if char == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += char
    return [part.strip() for part in [*parts, current]]


def parse_variant(text: str) -> tuple[str, dict[str, str]]:
    """The algorithm and its overrides, still as text, from "name" or "name[key=value,...]"."""
    match = BRACKETED.fullmatch(text)
    if match is None or not match["name"].strip():
        raise UsageError(f"cannot read algorithm {text!r}; write name or name[key=value,key=value]")
    overrides: dict[str, str] = {}
    for item in match["overrides"].split(",") if match["overrides"] else []:
        key, value = parse_assignment(item, f"algorithm {text!r}")
        if key in overrides:
            raise UsageError(f"algorithm {text!r} sets {key!r} twice")
        overrides[key] = value
    return match["name"].strip(), overrides


def parse_assignment(text: str, where: str) -> tuple[str, str]:
    """Key and value of "key=value". Errors begin with `where`."""
    key, equals, value = (part.strip() for part in text.partition("="))
    if not (equals and key and value):
        raise UsageError(f"{where}: {text!r} must have the form key=value")
    return key, value


def equals(recorded: Any, text: str) -> bool:
    """Whether a value in a run.json is the one that a text sets."""
    if recorded is None:
        return text in NONE
    try:
        return bool(_convert(text, type(recorded)) == recorded)
    except (ValueError, TypeError, KeyError, OverflowError):
        return False


def fields(config: type[Any]) -> dict[str, Any]:
    """The fields of a dataclass with their types."""
    hints = typing.get_type_hints(config)
    return {field.name: hints[field.name] for field in dataclasses.fields(config)}


def typed(config: type[Any], key: str, value: Any, where: str) -> Any:
    """`value`, a string or a value from YAML, converted to the type of the field `key` of `config`.

    Raises UsageError, which begins with `where`, for an unknown field and for a value of another type.
    """
    types_by_name = fields(config)
    if key not in types_by_name:
        error = unknown("hyperparameter", key, types_by_name)
        raise UsageError(f"{where}: {error}")
    try:
        return _convert(value, types_by_name[key])
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        wanted = _describe(types_by_name[key])
        raise UsageError(f"{where}: {key}={value!r} is not {wanted}") from error


def build(config: type[Any], values: dict[str, Any], where: str) -> Any:
    """An instance of the dataclass. Raises UsageError, which begins with `where`, for a value that it rejects."""
    try:
        return config(**values)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{where}: {error}") from error


def restore(config: type[Any], written: dict[str, Any]) -> Any:
    """An instance of the dataclass from the values in a run.json, where tuples are lists."""
    return config(**{key: tuple(value) if isinstance(value, list) else value for key, value in written.items()})


@dataclass(frozen=True)
class Field:
    """A hyperparameter, described as text."""

    name: str
    kind: str
    default: str
    comment: str


def describe(algorithm: type[Any]) -> list[Field]:
    """The hyperparameters of an algorithm with their comments; its own come first, then those of all algorithms."""
    config = algorithm.Config
    comments: dict[str, str] = {}
    own: dict[str, None] = {}
    for base in config.__mro__:
        if dataclasses.is_dataclass(base) and isinstance(base, type):
            for name in base.__annotations__:
                own.setdefault(name)
            for name, comment in _comments(base).items():
                comments.setdefault(name, comment)
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    kinds = fields(config)
    return [Field(name, _kind(kinds[name]), str(defaults[name]), comments.get(name, "")) for name in own]


def _comments(config: type[Any]) -> dict[str, str]:
    """The comment after each field in the source of a dataclass."""
    try:
        source = inspect.getsource(config)
    except (OSError, TypeError):
        return {}
    return {match[1]: match[2].strip() for match in re.finditer(r"^    (\w+):[^#\n]*#\s*(.+)$", source, re.MULTILINE)}


def _kind(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " or ".join(str(choice) for choice in typing.get_args(kind))
    return getattr(kind, "__name__", str(kind))


def _convert(value: Any, kind: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin is Literal:
        for choice in typing.get_args(kind):
            if value == choice or value == str(choice):
                return choice
        raise ValueError
    if origin in (Union, types.UnionType):
        if type(None) in typing.get_args(kind) and (value is None or value in NONE):
            return None
        for option in typing.get_args(kind):
            if option is not type(None):
                try:
                    return _convert(value, option)
                except (ValueError, TypeError):
                    continue
        raise ValueError
    if kind is bool:
        return BOOLEANS[str(value).lower()]
    if isinstance(value, bool):
        raise TypeError
    if kind is int:
        number = float(value)
        exact = int(value) if isinstance(value, int) or re.fullmatch(r"[+-]?[\d_]+", str(value)) else int(number)
        if exact != number:
            raise ValueError
        return exact
    if kind is float:
        return float(value)
    if kind is str:
        return str(value)
    raise UsageError(f"hyperparameters of type {kind} cannot be set; use int, float, bool, str or Literal")


def _describe(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(kind))
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
    return names.get(kind, str(kind))
