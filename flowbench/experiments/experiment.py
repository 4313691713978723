"""What an experiment's YAML file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import suites
from flowbench.common.errors import UsageError, unknown

SCALES = ("smoke", "cpu", "full")
KINDS = ("grid", "timing", "module")


@dataclass(frozen=True)
class Experiment:
    """An experiment: `kind` says how it is run, `about` what every scale has, `scales` what each has of its own."""

    paper: str
    name: str
    title: str
    figure: str  # of the paper
    claim: str  # what the paper says of it
    kind: str  # "grid", "timing" or "module"
    about: Mapping[str, Any]
    scales: Mapping[str, Mapping[str, Any]]

    @staticmethod
    def read(path: Path) -> Experiment:
        """Raises UsageError, which names the file and the key."""
        try:
            data = suites.read_yaml(path)
        except suites.SuiteError as error:
            raise UsageError(f"{path}: {error}") from error
        if not isinstance(data, dict):
            raise UsageError(f"{path}: must hold keys such as title and scales, not {type(data).__name__}")
        known = ("title", "figure", "claim", "scales", *KINDS)
        for key in data:
            if key not in known:
                raise UsageError(f"{path}: {unknown('key', str(key), known)}")
        kinds = [kind for kind in KINDS if kind in data]
        if len(kinds) != 1:
            raise UsageError(f"{path}: must have one of {', '.join(KINDS)}, and has {' and '.join(kinds) or 'none'}")
        texts = {key: data.get(key) for key in ("title", "figure", "claim")}
        if not all(isinstance(text, str) for text in texts.values()):
            raise UsageError(f"{path}: title, figure and claim must be texts")
        scales = data.get("scales")
        if not isinstance(scales, dict) or set(scales) != set(SCALES) or not all(map(_is_mapping, scales.values())):
            raise UsageError(f"{path}: scales must hold {', '.join(SCALES)}, each with keys of its own")
        about = data[kinds[0]]
        return Experiment(
            paper=path.parent.name,
            name=path.stem,
            title=data["title"],
            figure=data["figure"],
            claim=data["claim"],
            kind=kinds[0],
            about=about if _is_mapping(about) else {"name": about},
            scales=scales,
        )

    def scale(self, name: str) -> dict[str, Any]:
        """What is to be run at a scale. Raises UsageError."""
        if name not in self.scales:
            raise unknown("scale", name, SCALES)
        return {**self.about, **self.scales[name]}


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)
