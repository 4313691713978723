"""Names of algorithms: what a name on the command line means, display names (`--label`), and the order of a report."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from flowbench import stats
from flowbench.common.errors import UsageError, one_of, unknown
from flowbench.store.load import selects

SORTS = ("iqm", "name", "given")
EXACT, VARIANT, NAME, OTHER = range(4)  # how a text means a variant: its label, its values, its algorithm, not at all


def labelled(runs: pd.DataFrame, evals: pd.DataFrame, labels: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both frames with display names, given as ``NAME=LABEL``; the column ``label`` of the runs has the names before.

    Raises UsageError for a text of another form, for an unknown or ambiguous name, for a name with two labels, and if
    two variants of a suite would have the same name.
    """
    if not labels or runs.empty:
        return runs, evals
    renamed: dict[tuple[str, str], str] = {}
    for text in labels:
        parts = re.fullmatch(r"((?:\[[^\]]*\]|[^=\[])+)=(.*\S.*)", text)
        if not parts:
            raise UsageError(f"--label {text!r} must be NAME=LABEL, such as 'flowrl[tau=0.05]=FlowRL'")
        name, label = (part.strip() for part in parts.groups())
        for key in one(name, runs, "--label").items():
            if key in renamed:
                raise UsageError(f"--label: {key[1]!r} has two labels: {renamed[key]!r} and {label!r}")
            renamed[key] = label
    taken: dict[tuple[str, str], str] = {}
    for row in _variants(runs):
        suite, algo = row["suite"], row["shown"]
        label = renamed.get((suite, algo), algo)
        if (suite, label) in taken:
            raise UsageError(f"--label: {taken[suite, label]!r} and {algo!r} would both have the name {label!r}")
        taken[suite, label] = algo
    found = []
    for frame, distinct in zip((runs, evals), stats.distinct_labels(runs, evals), strict=True):
        keys = [] if frame.empty else zip(distinct["suite"], distinct["algo"], frame["algo"], strict=True)
        found.append(frame.assign(algo=[renamed.get((suite, algo), plain) for suite, algo, plain in keys]))
    return found[0].assign(label=runs["algo"]), found[1]


def replaced(runs: pd.DataFrame) -> dict[str, str]:
    """The names that ``labelled`` replaced, by display name."""
    names = zip(runs["algo"], runs.get("label", runs["algo"]), strict=True)
    return dict(sorted({(str(algo), str(label)) for algo, label in names if algo != label}))


def find(text: str, runs: pd.DataFrame) -> dict[str, list[str]]:
    """The algorithms of each suite that a name means; only those that it means most exactly."""
    variants = _variants(runs)
    found: dict[str, list[str]] = {}
    for suite in {row["suite"] for row in variants}:
        kinds = {row["shown"]: _meaning(text, row) for row in variants if row["suite"] == suite}
        found[suite] = [algo for algo, kind in kinds.items() if kind == min(kinds.values()) < OTHER]
    return found


def one(text: str, runs: pd.DataFrame, option: str = "") -> dict[str, str]:
    """The algorithm of each suite that a name means. Raises UsageError if there is none, or several in a suite.

    The message begins with the ``option`` of the command line that has the name.
    """
    prefix = f"{option}: " if option else ""
    found = find(text, runs)
    if not any(found.values()):
        choices = sorted({row["shown"] for row in _variants(runs)})
        raise UsageError(f"{prefix}{unknown('algorithm in these results', text, choices)}")
    for several in found.values():
        if len(several) > 1:
            raise UsageError(f"{prefix}{text!r} is ambiguous: choose one of {', '.join(sorted(several))}")
    return {suite: algos[0] for suite, algos in found.items() if algos}


def sort_of(sort: str | None, given: Sequence[str]) -> str:
    """The order of a report: by default as ``given`` with `--algo`, or by IQM if nothing is given."""
    chosen = one_of("--sort", sort or ("given" if given else "iqm"), SORTS)
    if chosen == "given" and not given:
        raise UsageError("--sort given needs --algo, which gives the order")
    return chosen


def in_order(
    runs: pd.DataFrame, iqm: Mapping[str, float], published: Collection[str], sort: str, given: Sequence[str]
) -> list[str]:
    """The algorithms of one suite by IQM, by name, or as the texts ``given`` name them; published curves are last.

    Where the given texts leave the order open it is by IQM, and for an equal IQM by name. Algorithms without an IQM are
    last.
    """

    def key(row: Mapping[Any, Any]) -> tuple[Any, ...]:
        algo = row["shown"]
        place = min((_meaning(text, row), k) for k, text in enumerate(given))[1] if sort == "given" else 0
        value = 0.0 if sort == "name" else -iqm.get(algo, math.nan)
        return algo in published, place, math.isnan(value), 0.0 if math.isnan(value) else value, algo

    return [row["shown"] for row in sorted(_variants(runs), key=key)]


def _variants(runs: pd.DataFrame) -> list[dict[Any, Any]]:
    """One row for each suite and variant; ``shown`` is its distinct name, ``label`` its name without ``--label``."""
    shown = stats.distinct_labels(runs, runs)[0]["algo"]
    facts = runs.assign(shown=shown, label=runs.get("label", runs["algo"]))
    return facts.drop_duplicates(["suite", "shown"]).to_dict("records")


def _meaning(text: str, row: Mapping[Any, Any]) -> int:
    """How a text means a variant: the smaller the number, the more exactly."""
    if text in (row["shown"], row["label"]):
        return EXACT
    name = str(row.get("name", re.split(r"[\[#]", row["label"])[0]))  # frames made by hand have no names
    if selects(text, name, row["label"], row["config_id"], row.get("config", {})):
        return VARIANT if "[" in text else NAME
    return OTHER
