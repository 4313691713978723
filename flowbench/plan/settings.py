"""The resolved hyperparameters of variants, next to the defaults, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import suites
from flowbench.common.text_table import TextTable
from flowbench.plan import overrides
from flowbench.plan.cells import Variant

LEGEND = "* differs from the default: set by the suite, or given in the command"


@dataclass(frozen=True)
class Setting:
    """A hyperparameter of a variant: `by` is "suite" or "given" if its value is not the default, otherwise empty."""

    field: overrides.Field
    value: str
    by: str

    def __str__(self) -> str:
        return f"{self.value} * {self.by}" if self.by else self.value


def resolved(suite: suites.Suite, variant: Variant) -> list[Setting]:
    """Every hyperparameter of a variant, in the order of `flowbench list params`."""
    algorithm = variant.entry.load()
    default = algorithm.Config()
    of_suite = suite.overrides.get(variant.entry.name, {})
    found = []
    for field in overrides.describe(algorithm):
        value = getattr(variant.config, field.name)
        by = ""
        if value != getattr(default, field.name):
            typed: Any = of_suite.get(field.name)
            if field.name in of_suite:
                typed = overrides.typed(algorithm.Config, field.name, typed, suite.name)
            by = "suite" if field.name in of_suite and value == typed else "given"
        found.append(Setting(field, str(value), by))
    return found


def tables(suite: suites.Suite, variants: Sequence[Variant]) -> list[TextTable]:
    """A table for each algorithm: a row for each hyperparameter, a column for the default and for each variant."""
    found = []
    for name in dict.fromkeys(variant.entry.name for variant in variants):
        own = {variant.label: resolved(suite, variant) for variant in variants if variant.entry.name == name}
        rows = tuple(
            (settings[0].field.name, settings[0].field.default, *map(str, settings))
            for settings in zip(*own.values(), strict=True)
        )
        found.append(TextTable(f"Hyperparameters of {name} ({LEGEND})", ("", "default", *own), rows))
    return found
