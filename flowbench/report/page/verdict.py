"""The headline of a suite in two sentences: the highest IQM, and what the test says of this algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowbench import stats
from flowbench.common.text_table import interval, plural
from flowbench.report import tables
from flowbench.report.assemble import Section

MANY = 6  # more algorithms than this are counted, not listed
WORDS = {
    "better": "better than",
    "worse": "worse than",
    "undecided": "undecided:",
    "too few seeds": "too few seeds for a verdict:",
    "no common task": "no common task:",
}


def sentences(section: Section) -> list[str]:
    """Which of our algorithms has the highest IQM, and its verdicts; or the verdicts of all on the baseline."""
    rows = section.aggregates[section.aggregates["metric"] == "IQM"].dropna(subset="estimate")
    rows = rows.sort_values("estimate", ascending=False, kind="stable")
    ours = rows[~rows["algo"].isin(section.published)]
    leaders = (rows if ours.empty else ours).to_dict("records")
    if len(section.algos) == 1:
        score = f" Its IQM is {_iqm(leaders[0])}." if leaders else ""
        return [f"{section.algos[0]} is the only algorithm, so there is nothing to compare.{score}"]
    if not leaders:
        first = "There is no IQM, because no algorithm has a seed with a run on every task."
    else:
        first = f"{leaders[0]['algo']} has the highest IQM: {_iqm(leaders[0])}"
        first += f", followed by {leaders[1]['algo']}: {_iqm(leaders[1])}." if len(leaders) > 1 else "."
    return [first, _second(section, leaders[0]["algo"] if leaders else None)]


def method(section: Section) -> str:
    """What the verdicts rest on."""
    counts = [section.seeds[algo] for algo in section.algos if algo not in section.published]
    sizes = f"{plural(len(section.tasks), 'task')}, {tables.seeds(counts or list(section.seeds.values()))}"
    return (
        f"In brackets: {tables.BRACKETS[1:-1]}; {sizes}, step {section.step:,}. Better means p <= {stats.LEVEL:.2f} in "
        f"the {tables.TEST}, as in flowbench compare, after {tables.correction(section)}."
    )


def _iqm(row: dict[Any, Any]) -> str:
    return interval(row["estimate"], row["low"], row["high"], digits=3)


def _second(section: Section, leader: str | None) -> str:
    pairs = stats.both_ways(section.improvement)
    if section.baseline is not None:
        of_others = pairs[pairs["over"] == section.baseline]
        algos = {verdict: list(group["algo"]) for verdict, group in of_others.groupby("verdict")}
        parts = [f"{verdict}: {_listed(algos[verdict])}" for verdict in WORDS if verdict in algos]
        return f"Compared with the baseline {section.baseline}: {'; '.join(parts)}."
    if leader is None:
        decided = int(section.improvement["verdict"].isin(stats.DECIDED).sum())
        return f"Of {plural(len(section.improvement), 'pair')}, {decided} are decided."
    of_leader = pairs[pairs["algo"] == leader]
    others = {verdict: set(group["over"]) for verdict, group in of_leader.groupby("verdict")}
    parts = [
        f"{words} {_listed([algo for algo in section.algos if algo in others[verdict]])}"
        for verdict, words in WORDS.items()
        if verdict in others
    ]
    said = "; ".join(parts)
    return f"It is {said}." if parts[0].split()[0] in stats.DECIDED else f"{said[0].upper()}{said[1:]}."


def _listed(names: Sequence[str]) -> str:
    """``a, b and c``; of many names the number."""
    if len(names) > MANY:
        return f"{len(names)} others"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
