"""Assembles a trainer from its parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

import algos
from algos.agent import Agent, Config
from flowbench.common.rng import stream_seed
from flowbench.learners import seed_learners
from flowbench.learners.placement import Placement
from flowbench.plan import overrides
from flowbench.train.clock import Clock
from flowbench.train.evaluation import BuildAgent, Evaluator
from flowbench.train.replay import Replay
from flowbench.train.trainer import Trainer
from flowbench.train.vecenv import Env, make_vecenv

GPU_SHARE = 0.7  # of the memory that a replay on a GPU may take


def build_agent(name: str, target: str, config: dict[str, Any], obs_dim: int, act_dim: int) -> Agent[Any]:
    """An agent of an algorithm. With its first three arguments bound it can be sent to another process."""
    algorithm = algos.Entry(name, target).load()
    return algorithm(obs_dim, act_dim, overrides.restore(algorithm.Config, config))


def build_trainer(
    make_env: Callable[[], Env],
    algorithm: type[Agent[Any]],
    config: Config,
    seeds: Sequence[int],
    *,
    steps: int,
    evaluate_every: int,
    evaluation_episodes: int,
    placement: Placement,
    build_agent: BuildAgent | None = None,
    save_every: int | None = None,
    success: float | None = None,
) -> Trainer:
    """A trainer of one algorithm on one task for several seeds, each with its own environment, replay and agent.

    `steps`, `evaluate_every` and `save_every` count environment steps of the task, after action repeat. An evaluation
    episode counts as a success if its return is at least `success`; without a value no success rate is computed.
    With worker processes, `make_env` and `build_agent` (obs_dim, act_dim -> agent) are sent to them and must be
    picklable.
    """
    seeds = list(seeds)
    clock = Clock()
    evaluator = Evaluator(
        make_env, build_agent or partial(algorithm, config=config), evaluation_episodes, placement.evaluation
    )
    envs = make_vecenv(make_env, len(seeds), partial(_episode_seed, seeds), placement.environments)
    obs_dim, act_dim = envs.obs_dim, envs.act_dim
    learner = seed_learners.build(algorithm, obs_dim, act_dim, config, seeds, placement)
    device = replay_device(placement, Replay.bytes_needed(seeds, obs_dim, act_dim, config, steps))
    replay = Replay(seeds, obs_dim, act_dim, config, steps, device)
    return Trainer(
        envs,
        replay,
        learner,
        evaluator,
        clock,
        config=config,
        seeds=seeds,
        steps=steps,
        evaluate_every=evaluate_every,
        save_every=save_every,
        success=success,
        device=placement.device,
    )


def _episode_seed(seeds: Sequence[int], index: int, episode: int) -> int:
    return stream_seed(seeds[index], "training", episode)


def replay_device(placement: Placement, needed: int) -> torch.device:
    """The training device if `needed` bytes of replay fit into its memory, else the CPU.

    Groups that share the device may all be about to allocate their replay, so each counts on its own share only.
    """
    device = placement.device
    if device.type != "cuda":
        return device
    free, total = torch.cuda.mem_get_info(device)
    return device if needed < GPU_SHARE * min(free, total // placement.sharers) else torch.device("cpu")
