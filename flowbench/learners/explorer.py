"""Explores with a policy, and keeps its memory of the episodes that it is in."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from algos.agent import Memory
from flowbench.common.tensors import State
from flowbench.learners.cuda_graphs import Graphed
from flowbench.learners.learner import EagerLearner
from flowbench.learners.stacked import StackedLearner


class Explorer:
    """The policy of one seed, with obs [1, obs_dim], or of S stacked seeds, with obs [S, 1, obs_dim].

    An episode is a row of the first dimension.
    """

    def __init__(
        self, learner: EagerLearner | StackedLearner, run: EagerLearner | StackedLearner | Graphed, episodes: int = 1
    ) -> None:
        """`run` computes what `learner` does, perhaps by CUDA graphs."""
        self._learner, self._run = learner, run
        self._memory: Memory | None = None
        self._begins = set(range(episodes))  # the episodes whose next observation is the first

    def begin(self, episode: int) -> None:
        """The next observation of this row is the first of an episode."""
        self._begins.add(episode)

    def act(self, obs: Tensor) -> Tensor:
        """Exploring actions."""
        if self._begins and self._learner.has_memory:
            first = self._learner.first_memory(obs) or {}
            kept = self._memory or first
            for name, episode in itertools.product(first, self._begins):
                kept[name][episode] = first[name][episode]
            self._memory, self._begins = kept, set()
        action, self._memory = self._run.act_with_memory(obs, True, self._memory)
        return action

    def state(self, episode: int) -> State:
        """The memory of an episode; empty at its start."""
        kept = {} if episode in self._begins else self._memory or {}
        return {name: tensor[episode] for name, tensor in kept.items()}

    def restore(self, states: Sequence[State]) -> None:
        """Continue from the `state` of every episode."""
        self._begins = {episode for episode, state in enumerate(states) if not state}
        known = next(filter(None, states), {})
        device = self._learner.device
        self._memory = {
            name: torch.stack([state.get(name, torch.zeros_like(like)) for state in states]).to(device)
            for name, like in known.items()
        } or None
