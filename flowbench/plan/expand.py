"""From what was asked for to cells: suite x algorithm variant x seed, each with one resolved config."""

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
    suite: str,
    algorithms: Sequence[str],
    seeds: str = "5",
    *,
    tasks: Sequence[str] = (),
    steps: int | None = None,
    settings: Sequence[str] = (),
) -> list[Cell]:
    """The cells of a grid, seed by seed, so that a grid cut short has whole seeds to compare.

    `algorithms` are texts such as "sac,flowrl[flow_steps=5]"; `settings` such as "lr=1e-4" or "flowrl.lr=1e-4".
    Raises UsageError (or a ValueError of the suites and algos) naming what is wrong and the choices.
    """
    loaded = suites.load(suite)
    chosen = [loaded.task(name) for name in dict.fromkeys(tasks)] if tasks else list(loaded.tasks)
    protocol = _protocol(loaded, steps)
    resolved = variants(loaded, algorithms, settings, protocol)
    numbers = parse_seeds(seeds)
    return [Cell(loaded, task, variant, seed) for seed in numbers for task in chosen for variant in resolved]


def parse_auto(text: str) -> int | None:
    """20 from "auto:20", seeds to be added until a comparison is decided; None from seeds that are fixed."""
    kind, _, most = text.partition(":")
    if kind != "auto":
        return None
    if not re.fullmatch(r"[1-9]\d{0,3}", most) or int(most) < 2:
        raise UsageError(f"seeds {text!r}: write auto:20, with the most seeds there may be, 2 to 9999")
    return int(most)


def parse_seeds(text: str) -> list[int]:
    """Seeds from "5" (the first five, 0-4), "0,3,7", "0-9", a mix such as "0-4,8", or the most from "auto:20"."""
    most = parse_auto(text)
    if most:
        return list(range(most))
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,10})(?:\s*-\s*(\d{1,10}))?\s*", part)
        if match is None:
            raise UsageError(f"cannot read seeds {text!r}; write a count (5), a list (0,3,7), a range (0-9) or auto:20")
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        if "," not in text and match[2] is None:
            if first == 0:
                raise UsageError("seeds '0' is a count of none; for seed 0 alone write 0-0")
            first, last = 0, first - 1
        if last < first or last > MAX_SEED or last - first >= 100_000:
            raise UsageError(f"seeds {part.strip()!r} is no range of seeds from 0 to {MAX_SEED}, upwards")
        seeds += range(first, last + 1)
    if len(set(seeds)) != len(seeds):
        raise UsageError(f"seeds {text!r} names a seed twice")
    return seeds


def _protocol(suite: suites.Suite, steps: int | None) -> Protocol:
    if steps is None:
        return Protocol(suite.steps, suite.evaluation.every, suite.evaluation.episodes)
    if steps < 1:
        raise UsageError(f"--steps must be at least 1, got {steps}")
    return Protocol(steps, min(suite.evaluation.every, steps), suite.evaluation.episodes)


def variants(
    suite: suites.Suite, algorithms: Sequence[str], settings: Sequence[str], protocol: Protocol
) -> list[Variant]:
    """The algorithms with every hyperparameter resolved for a suite; texts and errors as `expand` has them."""
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
        shipped = _suite_overrides(suite, entry.name, config)
        asked = {key: overrides.typed(config, key, value, f"algorithm {text!r}") for key, value in own.items()}
        base = overrides.build(config, shipped, f"suite {suite.name!r}, overrides of {entry.name}")
        resolved = overrides.build(config, {**shipped, **set_for[entry.name], **asked}, f"algorithm {text!r}")
        _check_trainable(resolved, protocol, f"algorithm {text!r}")
        label = _label(entry.name, base, resolved, protocol if protocol.steps != suite.steps else None)
        found.append(Variant(entry, resolved, protocol, label))
    labels = [variant.label for variant in found]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice:
        raise UsageError(f"two algorithms of this grid resolve to the same configuration, {twice}")
    return found


def _check_trainable(config: Any, protocol: Protocol, where: str) -> None:
    """A run must have steps to learn in, and a record that can be written."""
    if config.random_steps >= protocol.steps:
        raise UsageError(
            f"{where}: random_steps={config.random_steps} leaves nothing of {protocol.steps} steps to learn in; "
            "set fewer (--set random_steps=N) or train for longer"
        )
    try:
        json.dumps(dataclasses.asdict(config), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: its hyperparameters cannot be written down: {error}") from error


def _check_suite_overrides(suite: suites.Suite, chosen: Mapping[str, type[Any]]) -> None:
    """Every override a suite has must be one of a known algorithm, also of those that are not run now."""
    known = {**dict.fromkeys(algos.names()), **chosen}
    for name in suite.overrides:
        if name not in known:
            raise UsageError(f"suite {suite.name!r}: {unknown('algorithm in overrides', name, known)}")
        _suite_overrides(suite, name, chosen.get(name) or algos.find(name).load().Config)


def _suite_overrides(suite: suites.Suite, name: str, config: type[Any]) -> dict[str, Any]:
    where = f"suite {suite.name!r}, overrides of {name}"
    return {key: overrides.typed(config, key, value, where) for key, value in suite.overrides.get(name, {}).items()}


def _settings(settings: Sequence[str], configs: Mapping[str, type[Any]]) -> dict[str, dict[str, Any]]:
    """The typed --set values of each algorithm; one naming an algorithm wins over one for all that have the key."""
    everyone: dict[str, dict[str, Any]] = {name: {} for name in configs}
    single: dict[str, dict[str, Any]] = {name: {} for name in configs}
    for text in settings:
        where = f"--set {text}"
        key, value = overrides.parse_assignment(text, "--set")
        name, dot, own = key.rpartition(".")
        if dot:
            if name not in configs:
                raise unknown(f"algorithm in {where}:", name, configs)
            single[name][own] = overrides.typed(configs[name], own, value, where)
            continue
        having = [name for name, config in configs.items() if key in overrides.fields(config)]
        if not having:
            known = sorted({each for config in configs.values() for each in overrides.fields(config)})
            raise UsageError(f"{where}: {unknown('hyperparameter', key, known)}")
        for name in having:
            everyone[name][key] = overrides.typed(configs[name], key, value, where)
    return {name: {**everyone[name], **single[name]} for name in configs}


def _label(name: str, base: Any, resolved: Any, shortened: Protocol | None) -> str:
    """The name, followed by what differs from the suite's defaults in square brackets."""
    before, after = dataclasses.asdict(base), dataclasses.asdict(resolved)
    differs = [f"{key}={_text(value)}" for key, value in after.items() if value != before[key]]
    if shortened:
        differs.append(f"steps={shortened.steps}")
    return f"{name}[{','.join(differs)}]" if differs else name


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
