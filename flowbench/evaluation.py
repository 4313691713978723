"""Evaluation: whole episodes in environments and random streams of their own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from flowbench.learner import EagerLearner
from flowbench.streams import TorchStream, stream_seed
from flowbench.vecenv import Env


class Evaluator:
    """Runs K episodes of a policy in step, so that it acts on K observations at once."""

    def __init__(self, make: Callable[[], Env], episodes: int, device: torch.device) -> None:
        self.episodes = episodes
        self._envs = [make() for _ in range(episodes)]
        self._device = device

    def returns(self, learner: EagerLearner, seed: int, index: int) -> np.ndarray:
        """Undiscounted returns [K] of the run `seed`'s evaluation number `index`.

        They depend on the weights, `seed` and `index` alone, and nothing of training depends on them.
        """
        first = [env.reset(seed=stream_seed(seed, "evaluation", index, k))[0] for k, env in enumerate(self._envs)]
        obs = np.stack(first)
        returns = np.zeros(len(self._envs))
        running = list(range(len(self._envs)))
        with TorchStream(stream_seed(seed, "evaluation-policy", index), self._device):
            while running:
                actions = learner.act(torch.from_numpy(obs).to(self._device), explore=False).cpu().numpy()
                for k in list(running):
                    obs[k], reward, terminated, truncated, _ = self._envs[k].step(actions[k])
                    returns[k] += float(reward)
                    if terminated or truncated:
                        running.remove(k)
        return returns

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()
