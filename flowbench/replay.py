"""Replay: ring buffers of transitions, one a seed, filled and sampled together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from algos.agent import Batch, Config
from flowbench.streams import stream_seed


class Replay:
    """Transitions of S seeds in tensors [S, capacity, ...]; a full buffer forgets its oldest."""

    def __init__(
        self, seeds: Sequence[int], obs_dim: int, act_dim: int, config: Config, steps: int, device: torch.device
    ) -> None:
        """Room for `config.replay_size` transitions a seed, or for `steps` when the run is shorter."""
        self.capacity = min(config.replay_size, steps)
        self.size = 0  # transitions held, the same for every seed
        self.added = 0  # transitions ever added
        self._config = config
        self._generators = [torch.Generator(device).manual_seed(stream_seed(seed, "replay")) for seed in seeds]
        shape = (len(seeds), self.capacity)
        self._obs = torch.empty(*shape, obs_dim, device=device)
        self._next_obs = torch.empty(*shape, obs_dim, device=device)
        self._action = torch.empty(*shape, act_dim, device=device)
        self._reward = torch.empty(*shape, device=device)
        self._discount = torch.empty(*shape, device=device)

    def add(
        self, obs: np.ndarray, action: np.ndarray, reward: np.ndarray, next_obs: np.ndarray, terminated: np.ndarray
    ) -> None:
        """Store one transition a seed: obs and next_obs [S, obs_dim], action [S, act_dim], the rest [S]."""
        i = self.added % self.capacity
        self._obs[:, i] = torch.from_numpy(obs)
        self._action[:, i] = torch.from_numpy(action)
        self._reward[:, i] = torch.from_numpy(reward)
        self._next_obs[:, i] = torch.from_numpy(next_obs)
        self._discount[:, i] = torch.from_numpy(1.0 - terminated)
        self.added += 1
        self.size = min(self.added, self.capacity)

    def sample(self, progress: Tensor) -> list[Batch]:
        """One batch a seed, drawn with replacement: a share from the most recent transitions, the rest from all."""
        batches = []
        for seed, generator in enumerate(self._generators):
            i = self._draw(generator)
            batches.append(
                Batch(
                    self._obs[seed, i],
                    self._action[seed, i],
                    self._reward[seed, i],
                    self._next_obs[seed, i],
                    self._discount[seed, i],
                    progress,
                )
            )
        return batches

    def _draw(self, generator: torch.Generator) -> Tensor:
        """Positions [B] of the transitions of one batch."""
        c = self._config
        # The uniform share is rounded down; the small term keeps 0.1 x 100 from becoming 9.
        recent = c.batch_size - int(c.batch_size * (1.0 - c.recent_share) + 1e-9)
        device = self._obs.device
        anywhere = torch.randint(self.size, (c.batch_size - recent,), generator=generator, device=device)
        if not recent:
            return anywhere
        age = torch.randint(min(c.recent_window, self.size), (recent,), generator=generator, device=device)
        return torch.cat([anywhere, (self.added - 1 - age) % self.capacity])
