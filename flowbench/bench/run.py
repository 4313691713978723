"""The command `flowbench bench`: checks its options, measures and prints."""

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
RANDOM_STEPS = 100  # at most, with --loop: random actions say nothing about an algorithm's speed
NO_SUITE = suites.Suite("bench", "Bench", (), 2**53, suites.Evaluation(1, 1))  # updates need no tasks


def run_benchmark(
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
    """Measure and print. With a `task`, time whole training runs on it, otherwise single updates. Raises UsageError."""
    one_of("format", format, show.FORMATS)
    setting = Setting.choose(device, precision, threads)
    names = list(algo) or algos.names()
    overridden = {} if batch is None else {"batch_size": batch}
    stacks = _stacks(stack if stack is not None else "1,5" if task is None else "1")
    spinner = Console(stderr=True).status("measuring")  # shown on a terminal only
    header = setting.header()
    if task is None:
        _reject("needs --loop", steps=steps)
        chosen = variants(NO_SUITE, names, settings, overridden)
        others = peers.installed(chosen) if with_peers else []
        header["versions"] |= peers.versions(others)
        header["seconds"] = _seconds(seconds)
        sizes = updates.Sizes(obs or OBS, act or ACT)
        with setting.applied(), spinner:
            rows = updates.measure(chosen, stacks, setting, sizes, header["seconds"], others)
        print(show.updates(header, rows, format))
        return
    _reject("cannot be combined with --loop", obs=obs, act=act, seconds=seconds, peers=with_peers or None)
    steps = steps or loop.STEPS
    suite, found = loop.find(task)
    suites.require(found.source)
    overridden["random_steps"] = min(RANDOM_STEPS, steps // 5)
    chosen = variants(dataclasses.replace(suite, steps=steps), names, settings, overridden)
    header |= {"task": found.name, "action_repeat": found.action_repeat}
    with setting.applied(), spinner:
        rows = [loop.measure(found, each, seeds, setting) for each in chosen for seeds in stacks]
    print(show.loops(header, rows, format))


def variants(
    suite: suites.Suite, algorithms: Sequence[str], settings: Sequence[str], overridden: dict[str, Any]
) -> list[Variant]:
    """The algorithms as `flowbench run` configures them on the suite; `overridden` wins over the suite's overrides."""
    texts = [part for text in algorithms for part in overrides.split_outside_brackets(text)]
    names = {algos.find(overrides.parse_variant(text)[0]).name for text in texts}
    merged = {name: {**suite.overrides.get(name, {}), **overridden} for name in names}
    suite = dataclasses.replace(suite, overrides={**suite.overrides, **merged})
    return expand.variants(suite, algorithms, settings, Protocol(suite.steps, suite.steps, suite.evaluation.episodes))


def _stacks(text: str) -> list[int]:
    """Stack sizes from "1,5"."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) >= 1 for part in parts):
        raise UsageError(f"--stack {text!r} is not a list of whole numbers of at least 1, such as 1,5")
    return list(dict.fromkeys(map(int, parts)))


def _seconds(text: str | None) -> float:
    try:
        seconds = 3.0 if text is None else float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < 3600.0:
        raise UsageError(f"--seconds {text!r} is not a number of seconds above 0 and below 3600")
    return seconds


def _reject(reason: str, **options: object) -> None:
    """Raise UsageError if one of these options, which this kind of measurement does not use, was given."""
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"--{name} {reason}" if value is True else f"--{name} {value} {reason}")
