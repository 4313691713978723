"""The verdict on a suite in sentences, by the test of `flowbench compare`: who is better than whom, what is open."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from flowbench import stats
from flowbench.common.text_table import interval, plural
from flowbench.report.assemble import Section

MANY = 6  # more pairs than this of which nothing is known are counted, not listed
Pair = dict[Hashable, Any]  # a row of ``Section.improvement``, with the verdict of ``stats.decisions``


def sentences(section: Section, seed: int) -> list[str]:
    """First of our algorithms among themselves, then beside published ones, which decide nothing.

    ``seed`` is that of the permutations.
    """
    if section.improvement.empty:
        return ["One algorithm: there is nothing to compare it with."]
    tested = stats.decisions(section.table, apart=section.published, seed=seed)
    pairs = section.improvement.drop(columns="verdict").merge(tested, on=["algo", "over"]).to_dict("records")
    ours = [pair for pair in pairs if not {pair["algo"], pair["over"]} & set(section.published)]
    beside = [pair for pair in pairs if pair not in ours]
    said = _of(ours) or ["There are no two algorithms of ours to compare."]
    if beside:
        said += ["Beside published curves:", *_of(beside)]
    return [*said, _basis(section, sum(pair["tasks"] > 0 for pair in ours), bool(beside))]


def _of(pairs: Sequence[Pair]) -> list[str]:
    """A sentence for each algorithm that is better than another, and one for each kind of not knowing."""
    wins: dict[str, list[str]] = {}
    for pair in pairs:
        if pair["verdict"] in ("better", "worse"):
            winner, loser, chance = _decided(pair)
            wins.setdefault(winner, []).append(f"{loser} ({chance})")
    said = [f"{winner} is better than {_listed(losers)}." for winner, losers in sorted(wins.items(), key=_most)]
    for verdict, words in (
        ("undecided", "Undecided"),
        ("too few seeds", "Too few seeds to tell"),
        ("no common task", "Without a common task"),
    ):
        alike = [pair for pair in pairs if pair["verdict"] == verdict]
        if len(alike) > MANY:
            said.append(f"{words}: {len(alike)} pairs, which stand among the probabilities of improvement below.")
        elif alike:
            said.append(f"{words}: {'; '.join(_open(pair) for pair in alike)}.")
    return said


def _decided(pair: Pair) -> tuple[str, str, str]:
    """Winner, loser, and the probability that a run of the first scores above one of the second."""
    estimate, low, high = pair["estimate"], pair["low"], pair["high"]
    if pair["verdict"] == "better":
        return pair["algo"], pair["over"], interval(estimate, low, high, digits=3)
    return pair["over"], pair["algo"], interval(1 - estimate, 1 - high, 1 - low, digits=3)


def _open(pair: Pair) -> str:
    names = f"{pair['algo']} and {pair['over']}"
    if not pair["tasks"]:
        return names
    return f"{names} ({interval(pair['estimate'], pair['low'], pair['high'], digits=3)})"


def _most(win: tuple[str, list[str]]) -> tuple[int, str]:
    return -len(win[1]), win[0]


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _basis(section: Section, tested: int, beside: bool) -> str:
    seeds = sorted({section.seeds[algo] for algo in section.algos if algo not in section.published})
    counts = (
        f", {seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f", {plural(seeds[0], 'seed')}" if seeds else ""
    )
    apart = ", those beside published curves apart" if beside else ""
    return (
        f"In brackets stands how often a run of the first scores above one of the second on the same task, with its "
        f"95 % interval: {plural(len(section.tasks), 'task')}{counts}, step {section.step:,}. Better is what the "
        f"permutation test of flowbench compare, stratified by task, decides at p <= {stats.LEVEL:.2f} after Holm's "
        f"correction for {plural(tested, 'pair')}{apart}; the verdicts in the table of pairs go by each interval alone."
    )
