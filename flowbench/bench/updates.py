"""How long an update and an action take, through the learners that train, next to what the machine allows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from flowbench.bench import peers as peer_learners
from flowbench.bench import work
from flowbench.bench.limits import Limits
from flowbench.bench.setting import Setting
from flowbench.bench.timing import Timed, in_rounds
from flowbench.common.errors import UsageError
from flowbench.plan.cells import Variant
from flowbench.train import seed_learners
from flowbench.train.cuda_graphs import source_line
from flowbench.train.placement import Placement
from flowbench.train.replay import Replay

TRANSITIONS = 10_000  # in every replay, ours and the peer's
LESSER = 0.25  # share of the seconds of an update that an action, or a limit, is measured for


@dataclass
class _Subject:
    """One algorithm at one stack size."""

    variant: Variant
    seeds: int
    kind: str
    parameters: int
    work: work.Work
    update: Timed
    act: Timed
    peer: Timed | None


def measure(
    variants: Sequence[Variant],
    stacks: Sequence[int],
    setting: Setting,
    *,
    obs_dim: int,
    act_dim: int,
    seconds: float,
    peers: bool = False,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The limits of the machine, and a row for every algorithm and stack size.

    Each update is timed for `seconds`, in rounds that are interleaved with everything else. The peer, which trains one
    seed, is built once an algorithm.
    """
    limits = Limits(setting, LESSER * seconds)
    subjects: list[_Subject] = []
    for variant in variants:
        peer = None
        if peers and peer_learners.name(variant):
            step, _ = peer_learners.build(variant, obs_dim, act_dim, TRANSITIONS, setting)
            period = variant.entry.load()(obs_dim, act_dim, variant.config).period
            peer = Timed(_repeat(step, period), setting.device, period, seconds)
        for seeds in stacks:
            subject = _subject(variant, seeds, setting, obs_dim, act_dim, seconds, peer)
            limits.need(subject.work, seeds)
            subjects.append(subject)
    timed: list[Timed] = []
    for subject in subjects:
        new = (subject.update, subject.peer, subject.act)  # the peer right after what it is compared with
        timed += [each for each in new if each is not None and each not in timed]
    in_rounds([*timed, *limits.timed])
    return limits.header(), [_row(subject, limits, setting, obs_dim, act_dim) for subject in subjects]


def _subject(
    variant: Variant, seeds: int, setting: Setting, obs_dim: int, act_dim: int, seconds: float, peer: Timed | None
) -> _Subject:
    numbers, device = list(range(seeds)), setting.device
    algorithm, config = variant.entry.load(), variant.config
    learner = _learner(variant, numbers, setting, obs_dim, act_dim)
    replay = Replay(numbers, obs_dim, act_dim, config, TRANSITIONS, device)
    fill(replay, seeds, obs_dim, act_dim)
    agent = algorithm(obs_dim, act_dim, config)
    try:
        needed = work.count(agent, config.batch_size)
    except RuntimeError as error:  # such as a tensor that is made on the CPU whatever the others are on
        raise UsageError(
            f"{variant.label}: its operations cannot be counted: {source_line(error, agent)}: {error}"
        ) from error
    obs = np.random.default_rng(1).standard_normal((seeds, obs_dim), dtype=np.float32)

    def update() -> None:
        learner.update(replay.sample(0.5))  # as the peer's step, which draws its batch, too

    def act() -> np.ndarray:
        chosen: np.ndarray = learner.act(torch.from_numpy(obs).to(device)).float().cpu().numpy()
        return chosen

    return _Subject(
        variant,
        seeds,
        learner.kind,
        learner.parameters,
        needed,
        # Whole periods are timed: a policy that is updated every second time makes every second update longer.
        Timed(_repeat(update, agent.period), device, agent.period, seconds),
        Timed(act, device, 1, LESSER * seconds),
        peer,
    )


def _learner(
    variant: Variant, seeds: list[int], setting: Setting, obs_dim: int, act_dim: int
) -> seed_learners.GroupLearner:
    """The learner that a run would have; seeds that cannot be stacked are trained one by one, as there."""
    placement = Placement(setting.device, len(seeds) > 1, setting.precision)
    learner = seed_learners.build(variant.entry.load(), obs_dim, act_dim, variant.config, seeds, placement)
    if learner.note:
        print(f"flowbench: {variant.label}: {learner.note}", file=sys.stderr)
    return learner


def fill(replay: Replay, seeds: int, obs_dim: int, act_dim: int) -> None:
    """Fill a replay with invented transitions, in episodes of a thousand."""
    chance = np.random.default_rng(0)
    obs = chance.standard_normal((seeds, obs_dim), dtype=np.float32)
    reward, never = np.ones(seeds, dtype=np.float32), np.zeros(seeds, dtype=bool)
    for step in range(1, replay.capacity + 1):
        following = chance.standard_normal((seeds, obs_dim), dtype=np.float32)
        action = chance.uniform(-1.0, 1.0, (seeds, act_dim)).astype(np.float32)
        replay.add(obs, action, reward, following, never, never | (step % 1000 == 0))
        obs = following


def _repeat(call: Any, times: int) -> Any:
    def repeated() -> None:
        for _ in range(times):
            call()

    return repeated


def _row(subject: _Subject, limits: Limits, setting: Setting, obs_dim: int, act_dim: int) -> dict[str, Any]:
    """The row of one algorithm and stack size; times are of all its seeds together."""
    update, seeds, config = subject.update.seconds, subject.seeds, subject.variant.config
    # The peer trains one seed after the other.
    peer = subject.peer.seconds * seeds if subject.peer else None
    floor = limits.floor(subject.work, seeds)
    return {
        "algo": subject.variant.label,
        "stack": seeds,
        "device": setting.device.type,
        "update_ms": 1e3 * update,
        "act_ms": 1e3 * subject.act.seconds,
        "peer": peer_learners.name(subject.variant) if peer else None,
        "peer_update_ms": 1e3 * peer if peer else None,
        "ratio": peer / update if peer else None,
        "floor_ms": 1e3 * floor.seconds,
        "of_floor": floor.seconds / update,
        "bound": floor.bound,
        "updates_per_second": 1.0 / update,
        "seed_updates_per_second": seeds / update,
        "gflop": floor.flop / 1e9,
        "mbytes": floor.bytes / 1e6,
        "product": str(subject.work.product),
        "product_gflops": floor.flops / 1e9,
        "bandwidth_gbs": floor.bandwidth / 1e9,
        "kind": subject.kind,
        "parameters": subject.parameters,
        "precision": setting.precision,
        "threads": setting.threads,
        "obs": obs_dim,
        "act": act_dim,
        "batch": config.batch_size,
        "hidden": getattr(config, "hidden", None),
    }
