"""What `flowbench bench` does: times updates and whole training runs, next to a peer and to the machine's limits.

`run` reads what was asked for. `updates` and `loop` measure, `show` prints. Nothing is kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Console

import algos
import suites
from flowbench.bench import loop, peers, show, updates
from flowbench.bench.setting import Setting
from flowbench.common.errors import UsageError, one_of
from flowbench.plan import expand, overrides
from flowbench.plan.cells import Protocol, Variant

OBS, ACT = 223, 38  # dimensions of dog-run, the largest task of the DeepMind Control Suite
RANDOM_STEPS = 100  # at most, of a whole loop: random actions show nothing of an algorithm's speed


def run(
    *,
    algo: Sequence[str] = (),
    settings: Sequence[str] = (),
    stack: str | None = None,
    obs: int | None = None,
    act: int | None = None,
    batch: int | None = None,
    seconds: str | None = None,
    with_peers: bool = False,
    task: str | None = None,
    steps: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    format: str = "table",
) -> None:
    """Measure and print. `task` asks for whole loops on it; without it updates are measured. Raises UsageError."""
    one_of("format", format, show.FORMATS)
    setting = Setting.choose(device, precision, threads)
    wanted = list(algo) or algos.names()
    given = {} if batch is None else {"batch_size": batch}
    stacks = _stacks(stack if stack is not None else "1,5" if task is None else "1")
    # A terminal sees that something goes on; nothing else does.
    waiting = Console(stderr=True).status("measuring")
    if task is None:
        _refuse("is for --loop", steps=steps)
        chosen = variants(_invented_suite(), wanted, settings, given)
        header = setting.header()
        if with_peers:
            header["versions"] |= peers.require(chosen)
        header["seconds"] = _seconds(seconds)
        shape = {"obs_dim": obs or OBS, "act_dim": act or ACT}
        with setting.applied(), waiting:
            limits, rows = updates.measure(
                chosen, stacks, setting, **shape, seconds=header["seconds"], peers=with_peers
            )
        header["limits"] = limits
        print(show.updates(header, rows, format))
        return
    _refuse("is not for --loop", obs=obs, act=act, seconds=seconds, peers=with_peers or None)
    steps = steps or loop.STEPS
    suite, found = loop.find(task)
    suites.require(found.source)
    given["random_steps"] = min(RANDOM_STEPS, steps // 5)
    chosen = variants(dataclasses.replace(suite, steps=steps), wanted, settings, given)
    header = {**setting.header(), "task": found.name, "action_repeat": found.action_repeat}
    with setting.applied(), waiting:
        rows = [loop.measure(found, each, seeds, setting) for each in chosen for seeds in stacks]
    print(show.loops(header, rows, format))


def variants(
    suite: suites.Suite, algorithms: Sequence[str], settings: Sequence[str], given: dict[str, Any]
) -> list[Variant]:
    """The algorithms as a run of the suite would have them, `given` standing above what the suite overrides."""
    texts = [part for text in algorithms for part in overrides.split_outside_brackets(text)]
    names = {algos.find(overrides.parse_variant(text)[0]).name for text in texts}
    above = {name: {**suite.overrides.get(name, {}), **given} for name in names}
    suite = dataclasses.replace(suite, overrides={**suite.overrides, **above})
    return expand.variants(suite, algorithms, settings, Protocol(suite.steps, suite.steps, suite.evaluation.episodes))


def _invented_suite() -> suites.Suite:
    """No tasks and no end: updates need neither."""
    return suites.Suite("bench", "Bench", (), 2**53, suites.Evaluation(1, 1))


def _stacks(text: str) -> list[int]:
    """Stack sizes from "1,5"."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) >= 1 for part in parts):
        raise UsageError(f"--stack {text!r} is no list of whole numbers of at least 1, such as 1,5")
    return list(dict.fromkeys(map(int, parts)))


def _seconds(text: str | None) -> float:
    try:
        seconds = 3.0 if text is None else float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < 3600.0:
        raise UsageError(f"--seconds {text!r} is no number of seconds above 0 and under an hour")
    return seconds


def _refuse(why: str, **options: object) -> None:
    """One line for an option that the kind of measurement asked for has no use for."""
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"--{name} {why}" if value is True else f"--{name} {value} {why}")
