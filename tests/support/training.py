"""What training gave, and a run that is interrupted and resumed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from flowbench.train.events import Row, Save
from flowbench.train.trainer import Trainer

CLOCK = ("seconds", "steps_per_second")


def rows(happened: Iterable[object]) -> list[tuple[str, int, dict[str, float]]]:
    """The rows by table, seed and step, without the columns of the clock."""
    found = [each for each in happened if isinstance(each, Row)]
    found.sort(key=lambda row: (row.table, row.seed, row.values["step"]))
    return [(r.table, r.seed, {k: v for k, v in r.values.items() if k not in CLOCK}) for r in found]


def interrupted(trainer: Callable[[], Trainer], at: int) -> list[tuple[str, int, dict[str, float]]]:
    """The rows of a run that stops at the save of step `at` and is resumed by another trainer."""
    first = trainer()
    before, chunks, start = [], [[] for _ in first.seeds], 0
    for happened in first.run():
        before.append(happened)
        if isinstance(happened, Save):
            for index, chunk in enumerate(chunks):
                chunk.append(first.transitions(index, start))
            start = int(chunks[0][-1]["numbers"][1])
            if happened.step == at:
                states = [first.state(index) for index in range(len(first.seeds))]
                break
    first.close()
    second = trainer()
    for note in second.restore(states, chunks):
        print(note, file=sys.stderr)
    assert second.step == at
    after = list(second.run())
    second.close()
    return rows(before + after)
