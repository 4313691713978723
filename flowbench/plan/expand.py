"""Expands a suite, algorithms and seeds into cells, each with one resolved config."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import algos
import suites
from flowbench.common.errors import UsageError, unknown
from flowbench.plan import overrides
from flowbench.plan.cells import Cell, Protocol, Variant

MAX_SEED = 2**32 - 1


def expand(
    suite: str | suites.Suite,
    algorithms: Sequence[str],
    seeds: str = "5",
    *,
    tasks: Sequence[str] = (),
    steps: int | None = None,
    settings: Sequence[str] = (),
) -> list[Cell]:
    """The cells of a grid, ordered by seed, so that an interrupted grid has complete seeds to compare.

    `algorithms` are texts such as "sac,flowrl[flow_steps=5]"; `settings` are "lr=1e-4" or "flowrl.lr=1e-4".
    Raises UsageError, SuiteError or AlgorithmError, which name the bad value and the choices.
    """
    loaded = suites.load(suite) if isinstance(suite, str) else suite
    chosen = [loaded.task(name) for name in dict.fromkeys(tasks)] if tasks else list(loaded.tasks)
    resolved = variants(loaded, algorithms, settings, protocol(loaded, steps))
    numbers = parse_seeds(seeds)
    return [Cell(loaded, task, variant, seed) for seed in numbers for task in chosen for variant in resolved]


def parse_auto(text: str) -> int | None:
    """The maximum number of seeds, 20 from "auto:20"; None if the seeds are fixed."""
    kind, _, maximum = text.partition(":")
    if kind != "auto":
        return None
    if not re.fullmatch(r"[1-9]\d{0,3}", maximum) or int(maximum) < 2:
        raise UsageError(f"seeds {text!r}: write auto:20, with the maximum number of seeds, 2 to 9999")
    return int(maximum)


def parse_seeds(text: str) -> list[int]:
    """Seeds from "5" (the first five, 0-4), "0,3,7", "0-9", "0-4,8", or "auto:20" (the first twenty, at most)."""
    maximum = parse_auto(text)
    if maximum:
        return list(range(maximum))
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,10})(?:\s*-\s*(\d{1,10}))?\s*", part)
        if match is None:
            raise UsageError(f"cannot read seeds {text!r}; write a count (5), a list (0,3,7), a range (0-9) or auto:20")
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        if "," not in text and match[2] is None:
            if first == 0:
                raise UsageError("seeds '0' is a count and means no seed; for seed 0 alone write 0-0")
            first, last = 0, first - 1
        if last < first or last > MAX_SEED or last - first >= 100_000:
            raise UsageError(f"seeds {part.strip()!r} is not an ascending range of seeds from 0 to {MAX_SEED}")
        seeds += range(first, last + 1)
    if len(set(seeds)) != len(seeds):
        raise UsageError(f"seeds {text!r} names a seed twice")
    return seeds


def protocol(suite: suites.Suite, steps: int | None = None) -> Protocol:
    """How long a run of the suite trains, by default or for `steps` steps, and how it is evaluated."""
    if steps is None:
        return Protocol(suite.steps, suite.evaluation.every, suite.evaluation.episodes)
    if steps < 1:
        raise UsageError(f"--steps must be at least 1, got {steps}")
    return Protocol(steps, min(suite.evaluation.every, steps), suite.evaluation.episodes)


def variants(
    suite: suites.Suite, algorithms: Sequence[str], settings: Sequence[str], protocol: Protocol
) -> list[Variant]:
    """The algorithms with every hyperparameter resolved for a suite. Arguments and errors are those of `expand`."""
    texts = [part for text in algorithms for part in overrides.split_outside_brackets(text)]
    parsed = [(text, *overrides.parse_variant(text)) for text in texts]
    entries = [algos.find(name) for _, name, _ in parsed]
    for entry in entries:
        other = next((each for each in entries if each.name == entry.name and each.target != entry.target), None)
        if other:
            raise UsageError(f"two algorithms are named {entry.name!r}: {entry.target} and {other.target}; rename one")
    configs = [entry.load().Config for entry in entries]
    _check_suite_overrides(suite, dict(zip([entry.name for entry in entries], configs, strict=True)))
    set_for = _settings(settings, {entry.name: config for entry, config in zip(entries, configs, strict=True)})
    found: list[Variant] = []
    for (text, _, own), entry, config in zip(parsed, entries, configs, strict=True):
        of_suite = _suite_overrides(suite, entry.name, config)
        given = {key: overrides.typed(config, key, value, f"algorithm {text!r}") for key, value in own.items()}
        base = overrides.build(config, of_suite, f"suite {suite.name!r}, overrides of {entry.name}")
        resolved = overrides.build(config, {**of_suite, **set_for[entry.name], **given}, f"algorithm {text!r}")
        _check_trainable(resolved, protocol, f"algorithm {text!r}")
        label = _label(entry.name, base, resolved, protocol if protocol.steps != suite.steps else None)
        found.append(Variant(entry, resolved, protocol, label))
    labels = [variant.label for variant in found]
    duplicate = next((label for label in labels if labels.count(label) > 1), None)
    if duplicate:
        raise UsageError(f"two algorithms of this grid resolve to the same configuration, {duplicate}")
    return found


def _check_trainable(config: Any, protocol: Protocol, where: str) -> None:
    """Check that a run has steps to learn in, and hyperparameters that run.json can hold."""
    if config.random_steps >= protocol.steps:
        raise UsageError(
            f"{where}: random_steps={config.random_steps} leaves none of the {protocol.steps} steps for learning; "
            "set fewer (--set random_steps=N) or train for more steps"
        )
    try:
        json.dumps(dataclasses.asdict(config), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: its hyperparameters cannot be written as JSON: {error}") from error


def _check_suite_overrides(suite: suites.Suite, chosen: Mapping[str, type[Any]]) -> None:
    """Check every override of a suite, also those of algorithms that this grid does not run."""
    known = {**dict.fromkeys(algos.names()), **chosen}
    for name in suite.overrides:
        if name not in known:
            raise UsageError(f"suite {suite.name!r}: {unknown('algorithm in overrides', name, known)}")
        _suite_overrides(suite, name, chosen.get(name) or algos.find(name).load().Config)


def _suite_overrides(suite: suites.Suite, name: str, config: type[Any]) -> dict[str, Any]:
    where = f"suite {suite.name!r}, overrides of {name}"
    return {key: overrides.typed(config, key, value, where) for key, value in suite.overrides.get(name, {}).items()}


def _settings(settings: Sequence[str], configs: Mapping[str, type[Any]]) -> dict[str, dict[str, Any]]:
    """The typed --set values of each algorithm. "flowrl.lr=..." takes precedence over "lr=..."."""
    for_all: dict[str, dict[str, Any]] = {name: {} for name in configs}
    for_one: dict[str, dict[str, Any]] = {name: {} for name in configs}
    for text in settings:
        where = f"--set {text}"
        key, value = overrides.parse_assignment(text, "--set")
        name, dot, own = key.rpartition(".")
        if dot:
            if name not in configs:
                raise unknown(f"algorithm in {where}:", name, configs)
            for_one[name][own] = overrides.typed(configs[name], own, value, where)
            continue
        owners = [name for name, config in configs.items() if key in overrides.fields(config)]
        if not owners:
            known = sorted({each for config in configs.values() for each in overrides.fields(config)})
            raise UsageError(f"{where}: {unknown('hyperparameter', key, known)}")
        for name in owners:
            for_all[name][key] = overrides.typed(configs[name], key, value, where)
    return {name: {**for_all[name], **for_one[name]} for name in configs}


def _label(name: str, base: Any, resolved: Any, shortened: Protocol | None) -> str:
    """The name, and in square brackets what differs from the defaults of the suite."""
    before, after = dataclasses.asdict(base), dataclasses.asdict(resolved)
    differs = [f"{key}={_text(value)}" for key, value in after.items() if value != before[key]]
    if shortened:
        differs.append(f"steps={shortened.steps}")
    return f"{name}[{','.join(differs)}]" if differs else name


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
