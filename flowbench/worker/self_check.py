"""The self-check before training on a GPU: CUDA graphs must compute what eager mode does."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from algos.agent import Agent, Batch, Config
from flowbench.common.rng import TorchStream
from flowbench.learners import seed_learners
from flowbench.learners.cuda_graphs import WARM_UP
from flowbench.learners.placement import Placement
from flowbench.learners.seed_learners import GroupLearner

REPLAYED = 2  # periods of updates
TOLERANCE = 0.05  # relative; Adam turns a gradient of rounding errors into a whole step


def difference(
    algorithm: type[Agent[Any]], obs_dim: int, act_dim: int, config: Config, seeds: Sequence[int], placement: Placement
) -> str:
    """What replayed graphs compute differently, on the same invented batches with the same noise; empty if nothing.

    Of seeds that are not stacked only the first is checked: the others have the same graphs.
    """
    if not placement.uses_graphs:
        return ""
    seeds = seeds if placement.stack else seeds[:1]
    with contextlib.redirect_stderr(io.StringIO()):  # what cannot be captured is reported when it is trained
        replayed, eager = (
            seed_learners.build(algorithm, obs_dim, act_dim, config, seeds, replace(placement, graphs=graphs))
            for graphs in (True, False)
        )
        with TorchStream(0, torch.device("cpu")):
            parameters = {name for name, _ in algorithm(obs_dim, act_dim, config).named_parameters()}
        before = _weights(eager, len(seeds), parameters)
        generator = torch.Generator().manual_seed(0)
        batches = [
            _invented(len(seeds), obs_dim, act_dim, config.batch_size, generator, placement.device)
            for _ in range((WARM_UP + REPLAYED) * eager.period)
        ]
        actions, expected = (torch.stack([_step(learner, batch) for batch in batches]) for learner in (replayed, eager))
    if not _close(actions, expected, expected):
        return "actions"
    found = _weights(replayed, len(seeds), parameters)
    for part, weights in _weights(eager, len(seeds), parameters).items():
        if not _close(found[part], weights, weights - before[part]):
            return f"weights of {part}"
    for index in range(len(seeds)):
        logged = replayed.means(index)
        for name, mean in eager.means(index).items():
            if not _close(torch.tensor(logged.get(name, math.nan)), torch.tensor(mean), torch.tensor(abs(mean) + 1.0)):
                return name
    return ""


def _invented(
    seeds: int, obs_dim: int, act_dim: int, size: int, generator: torch.Generator, device: torch.device
) -> Batch:
    """An invented batch for every seed, of the size of the training."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(seeds, size, *shape, generator=generator)

    made = Batch(
        normal(obs_dim),
        normal(act_dim).tanh(),
        normal(),
        normal(obs_dim),
        (normal() > -1).float(),
        normal()[:, 0].abs().clamp(max=1.0),
    )
    return Batch(*(part.to(device) for part in made))


def _step(learner: GroupLearner, batch: Batch) -> Tensor:
    learner.update(batch)
    return learner.act(batch.obs[:, 0]).float()


def _weights(learner: GroupLearner, seeds: int, parameters: Collection[str]) -> dict[str, Tensor]:
    """A copy of all weights of each part of the agents, in one row, apart from each buffer, which may be far larger."""
    parts: dict[str, list[Tensor]] = {}
    for index in range(seeds):
        for name, tensor in learner.weights(index).items():
            part = name.partition(".")[0] if name in parameters else name
            parts.setdefault(part, []).append(tensor.double().flatten())
    return {part: torch.cat(tensors) for part, tensors in parts.items()}


def _close(found: Tensor, expected: Tensor, scale: Tensor) -> bool:
    """Whether the distance is small compared with `scale`. Two values that are not a number are equal."""
    apart = torch.where(found.isnan() & expected.isnan(), 0.0, found - expected)
    return bool(apart.norm() <= TOLERANCE * scale.nan_to_num().norm())
