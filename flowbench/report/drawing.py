"""Which figures are drawn, where and how large; knows nothing of the drawing itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowbench.common.errors import UsageError, one_of

FORMATS = ("svg", "pdf", "png")
KINDS = ("curves", "aggregates", "profiles", "improvement", "efficiency", "time")
LEAST, MOST = 1.0, 50.0  # inches


@dataclass(frozen=True)
class Drawing:
    """Figures of some ``kinds`` in a ``folder``, in every format, and single figures in ``files``: (kind, path).

    ``size`` is the width and height in inches; without it each figure has the size that suits it. ``thin`` adds a thin
    line for each seed to the learning curves.
    """

    folder: Path | None = None
    files: tuple[tuple[str, Path], ...] = ()
    kinds: tuple[str, ...] = KINDS
    size: tuple[float, float] | None = None
    thin: bool = False

    @property
    def wanted(self) -> bool:
        """Whether there is anything to draw."""
        return self.folder is not None or bool(self.files)

    @classmethod
    def of(cls, folder: Path | None, files: Sequence[str], size: str | None, *, thin: bool) -> Drawing:
        """From the options of the command line. Raises UsageError for values that cannot be."""
        found = cls(folder, tuple(map(_file, files)), size=None if size is None else _size(size), thin=thin)
        for option, given in (("--thin", thin), ("--figure-size", size)):
            if given and not found.wanted:
                raise UsageError(f"{option} needs figures: give --figures DIR or --figure KIND=FILE")
        return found


def _file(text: str) -> tuple[str, Path]:
    kind, sign, name = text.partition("=")
    if not sign or not name:
        raise UsageError(f"--figure {text!r} must be KIND=FILE, such as curves=fig2.pdf")
    path = Path(name)
    one_of("format of --figure", path.suffix.removeprefix(".").lower(), FORMATS)
    return one_of("figure", kind, KINDS), path


def _size(text: str) -> tuple[float, float]:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)x(\d+(?:\.\d+)?)", text)
    sides = tuple(map(float, found.groups())) if found else ()
    if not sides or not all(LEAST <= side <= MOST for side in sides):
        raise UsageError(f"--figure-size {text!r} must be WxH in inches, each from {LEAST:.0f} to {MOST:.0f}: 7x4")
    return sides[0], sides[1]
