"""The headline of a suite in sentences: the best algorithm, who is better than whom, and what is not decided."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from flowbench import stats
from flowbench.common.text_table import interval, plural
from flowbench.report import tables
from flowbench.report.assemble import Section

MANY = 6  # more pairs without a verdict than this are counted, not listed


def sentences(section: Section) -> list[str]:
    """First our algorithms among themselves, then the pairs with published curves, which are corrected separately."""
    pairs = section.improvement
    if pairs.empty:
        return ["There is one algorithm only, so nothing to compare."]
    iqm = section.aggregates[section.aggregates["metric"] == "IQM"].dropna(subset="estimate")
    iqm = iqm.sort_values("estimate", ascending=False, kind="stable").set_index("algo")
    published = pairs["algo"].isin(section.published) | pairs["over"].isin(section.published)
    found = _headline(iqm[~iqm.index.isin(section.published)])
    found += _of(pairs[~published], list(iqm.index)) or ["There are no two algorithms of ours to compare."]
    if published.any():
        found += ["Compared with published curves:", *_of(pairs[published], list(iqm.index))]
    counts = [section.seeds[algo] for algo in section.algos if algo not in section.published]
    sizes = f"{plural(len(section.tasks), 'task')}, {tables.seeds(counts or list(section.seeds.values()))}"
    return [
        *found,
        "After a name: the probability that a run of the first algorithm scores higher than a run of the second on "
        f"the same task {tables.BRACKETS}; {sizes}, step {section.step:,}. Better means p <= {stats.LEVEL:.2f} in the "
        f"{tables.TEST}, as in flowbench compare, after {tables.correction(section)}.",
    ]


def _headline(iqm: pd.DataFrame) -> list[str]:
    if iqm.empty:
        return []
    row = iqm.iloc[0]
    return [f"{row.name} has the highest IQM: {interval(row['estimate'], row['low'], row['high'], digits=3)}."]


def _of(pairs: pd.DataFrame, order: list[str]) -> list[str]:
    """A sentence for each algorithm that is better than another, by IQM, and one for each kind of open pair."""
    wins: dict[str, list[str]] = {}
    found = stats.both_ways(pairs)
    for pair in found[found["verdict"] == "better"].to_dict("records"):
        chance = interval(pair["estimate"], pair["low"], pair["high"], digits=3)
        wins.setdefault(pair["algo"], []).append(f"{pair['over']} ({chance})")
    ranks = {algo: place for place, algo in enumerate(order)}
    lines = [
        f"{winner} is better than {_listed(losers)}."
        for winner, losers in sorted(wins.items(), key=lambda win: ranks.get(win[0], len(ranks)))
    ]
    for verdict, words in (
        ("undecided", "Undecided"),
        ("too few seeds", "Too few seeds for a verdict"),
        ("no common task", "No common task"),
    ):
        alike = pairs[pairs["verdict"] == verdict].to_dict("records")
        if len(alike) > MANY:
            lines.append(f"{words}: {len(alike)} pairs, listed below with their probabilities of improvement.")
        elif alike:
            names = [f"{pair['algo']} and {pair['over']}" for pair in alike]
            chances = [interval(pair["estimate"], pair["low"], pair["high"], digits=3) for pair in alike]
            listed = (
                name if chance == "-" else f"{name} ({chance})" for name, chance in zip(names, chances, strict=True)
            )
            lines.append(f"{words}: {'; '.join(listed)}.")
    return lines


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
