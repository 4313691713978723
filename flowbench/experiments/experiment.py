"""Reads the YAML file of an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import suites
from flowbench.common.errors import UsageError, one_of, unknown

FOLDER = Path(__file__).parent
TEXTS = ("title", "figure", "claim")
KINDS = ("grid", "timing", "module")
SCALES = ("smoke", "cpu", "full")


@dataclass(frozen=True)
class Experiment:
    """An experiment of a paper, such as one of its figures."""

    paper: str
    name: str
    title: str
    figure: str  # its number in the paper
    claim: str  # what the paper concludes from it
    kind: str  # how it is run: as a grid, as a timing, or by a Python module
    common: Mapping[str, Any]  # options of all scales
    scales: Mapping[str, Mapping[str, Any]]  # options of each scale

    @staticmethod
    def read(path: Path) -> Experiment:
        """The experiment in a file. Raises UsageError naming the file, and SuiteError if it is not YAML."""
        data = suites.read_yaml(path)
        keys = set(data) if isinstance(data, dict) else set()
        kinds = keys & set(KINDS)
        if keys - kinds != {*TEXTS, "scales"} or len(kinds) != 1 or set(data["scales"]) != set(SCALES):
            raise UsageError(
                f"{path}: must have the keys {', '.join(TEXTS)}, one of {', '.join(KINDS)}, and scales with "
                f"{', '.join(SCALES)}"
            )
        (kind,) = kinds
        common = data[kind] if isinstance(data[kind], dict) else {"name": data[kind]}
        texts = {key: data[key] for key in TEXTS}
        return Experiment(path.parent.name, path.stem, **texts, kind=kind, common=common, scales=data["scales"])

    def scale(self, name: str) -> dict[str, Any]:
        """The options at a scale. Raises UsageError if there is no such scale."""
        return {**self.common, **self.scales[one_of("scale", name, SCALES)]}


def names() -> list[str]:
    """Every experiment as paper/name."""
    return [f"{path.parent.name}/{path.stem}" for path in sorted(FOLDER.glob("*/*.yaml"))]


def find(name: str) -> Experiment:
    """The experiment of that name; a name without its paper is enough if it is unique. Raises UsageError."""
    known = names()
    found = [each for each in known if name in (each, each.partition("/")[2])]
    if len(found) > 1:
        raise UsageError(f"several papers have an experiment {name!r}: {', '.join(found)}")
    if not found:
        raise unknown("experiment", name, known if "/" in name else [each.partition("/")[2] for each in known])
    return Experiment.read(FOLDER / f"{found[0]}.yaml")
