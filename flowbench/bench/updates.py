"""Times an update and an action of each algorithm, with the learners that training uses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from flowbench.bench import launches, peers
from flowbench.bench.peers import Peer
from flowbench.bench.setting import Setting
from flowbench.bench.timing import Timed, in_rounds
from flowbench.learners import seed_learners
from flowbench.learners.placement import Placement
from flowbench.plan.cells import Variant
from flowbench.train.replay import Replay

TRANSITIONS = 10_000  # in every replay buffer, ours and the peer's
ACTION_SHARE = 0.25  # an action is timed for this share of the seconds of an update


class Sizes(NamedTuple):
    """The dimensions of observations and actions."""

    obs: int
    act: int


@dataclass
class Subject:
    """One algorithm at one stack size, with its timers; those of `peers`, by their keys, train a single seed."""

    variant: Variant
    learner: seed_learners.GroupLearner
    seeds: int
    update: Timed
    act: Timed
    peers: Mapping[str, Timed]
    kernels: tuple[float, int]  # of an update and of an action on a GPU


def measure(
    variants: Sequence[Variant],
    stacks: Sequence[int],
    setting: Setting,
    sizes: Sizes,
    seconds: float,
    others: Sequence[Peer],
) -> list[dict[str, Any]]:
    """A row for every algorithm and stack size; each update is timed for `seconds`."""
    subjects = prepare(variants, stacks, setting, sizes, seconds, others)
    in_rounds(timers(subjects))
    return [row(subject, setting, sizes) for subject in subjects]


def prepare(
    variants: Sequence[Variant],
    stacks: Sequence[int],
    setting: Setting,
    sizes: Sizes,
    seconds: float,
    others: Sequence[Peer],
) -> list[Subject]:
    """Every algorithm at every stack size, ready to be timed. A peer is built once for each algorithm."""
    subjects = []
    for variant in variants:
        timed = {}
        for peer in others if variant.entry.name in peers.ALGORITHMS else ():
            step, _ = peers.build(peer, variant, *sizes, TRANSITIONS, setting)
            period = variant.entry.load()(*sizes, variant.config).period
            timed[peer.key] = Timed(_repeat(step, period), setting.device, period, seconds)
        subjects += [_subject(variant, seeds, setting, sizes, seconds, timed) for seeds in stacks]
    return subjects


def timers(subjects: Sequence[Subject]) -> list[Timed]:
    """All timers, each once; a peer is timed right after the update that it is compared with."""
    timed = [each for subject in subjects for each in (subject.update, *subject.peers.values(), subject.act)]
    return list(dict.fromkeys(timed))


def _subject(
    variant: Variant, seeds: int, setting: Setting, sizes: Sizes, seconds: float, timed_peers: Mapping[str, Timed]
) -> Subject:
    indices, device, algorithm = list(range(seeds)), setting.device, variant.entry.load()
    placement = Placement(device, seeds > 1, setting.precision)
    # As in a training run, seeds that cannot be stacked are trained one after the other.
    learner = seed_learners.build(algorithm, *sizes, variant.config, indices, placement)
    if learner.note:
        print(f"flowbench: {variant.label}: {learner.note}", file=sys.stderr)
    replay = Replay(indices, *sizes, variant.config, TRANSITIONS, device)
    fill(replay, seeds, *sizes)
    obs = np.random.default_rng(1).standard_normal((seeds, sizes.obs), dtype=np.float32)

    def update() -> None:
        learner.update(replay.sample(0.5))  # drawing the batch is included, as it is for the peer

    def act() -> np.ndarray:
        action: np.ndarray = learner.act(torch.from_numpy(obs).to(device)).float().cpu().numpy()
        return action

    # Whole periods are timed: if the policy is updated every second time, every second update takes longer.
    period = algorithm(*sizes, variant.config).period
    timed_update = Timed(_repeat(update, period), device, period, seconds)
    timed_act = Timed(act, device, 1, ACTION_SHARE * seconds)
    stacked = seeds > 1 and (learner.kind == "stacked" or not learner.note)
    kernels = launches.of_agents(algorithm, *sizes, variant.config, seeds, stacked)
    return Subject(variant, learner, seeds, timed_update, timed_act, timed_peers, kernels)


def fill(replay: Replay, seeds: int, obs_dim: int, act_dim: int) -> None:
    """Fill a replay buffer with random transitions, in episodes of 1,000 steps."""
    rng = np.random.default_rng(0)
    obs = rng.standard_normal((seeds, obs_dim), dtype=np.float32)
    reward, never = np.ones(seeds, dtype=np.float32), np.zeros(seeds, dtype=bool)
    for step in range(1, replay.capacity + 1):
        next_obs = rng.standard_normal((seeds, obs_dim), dtype=np.float32)
        action = rng.uniform(-1.0, 1.0, (seeds, act_dim)).astype(np.float32)
        replay.add(obs, action, reward, next_obs, never, never | (step % 1000 == 0))
        obs = next_obs


def _repeat(call: Callable[[], object], times: int) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(times):
            call()

    return repeated


def row(subject: Subject, setting: Setting, sizes: Sizes) -> dict[str, Any]:
    """The measured times of one algorithm and stack size, for all its seeds together."""
    update, seeds, config = subject.update.seconds, subject.seeds, subject.variant.config
    # A peer trains one seed after the other.
    others = {key: seeds * peer.seconds for key, peer in subject.peers.items()}
    return {
        "algo": subject.variant.label,
        "stack": seeds,
        "device": setting.device.type,
        "update_ms": 1e3 * update,
        "act_ms": 1e3 * subject.act.seconds,
        "kernels": subject.kernels[0],
        "act_kernels": subject.kernels[1],
        "peers": {key: {"update_ms": 1e3 * peer, "ratio": peer / update} for key, peer in others.items()},
        "updates_per_second": 1.0 / update,
        "seed_updates_per_second": seeds / update,
        "kind": subject.learner.kind,
        "parameters": subject.learner.parameters,
        "precision": setting.precision,
        "threads": setting.threads,
        "obs": sizes.obs,
        "act": sizes.act,
        "batch": config.batch_size,
        "hidden": getattr(config, "hidden", None),
    }
