"""A learner turns the losses of an agent into parameter updates; the eager one computes operation by operation."""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from algos.agent import Agent, Batch, Diagnostics, Loss
from flowbench.common.tensors import State, flat, under
from flowbench.learners.means import Means
from flowbench.learners.optimiser import Optimiser

Autocast = Callable[[], AbstractContextManager[object]]


class BaseLearner(ABC):
    """The common part of the learners. Implements `algos.agent.Learner`."""

    def __init__(self, agent: Agent[Any], device: torch.device, autocast: Autocast, seeds: int) -> None:
        """Every loss and every choice of actions is computed inside a new `autocast()`."""
        self.agent = agent.to(device)
        self.device = device
        self.updates = 0
        self.logged = Means(seeds)
        self._autocast = autocast
        self._optimisers: dict[str, Optimiser] = {}

    def update(self, batch: Batch) -> None:
        """One update. The tensors of the batch are [B, ...], or [S, B, ...] for S seeds."""
        self.take_steps(batch, self.updates % self.agent.period)
        self.updates += 1

    def take_steps(self, batch: Batch, phase: int) -> None:
        """The computation of an update: what a CUDA graph records."""
        try:
            self.agent.update(batch, self, phase)
        except BaseException:
            self.logged.drop()  # of a graph that could not be recorded they are memory without values
            raise
        self.logged.add_up()

    def minimise(self, part: str, loss: Loss, *args: Any) -> Diagnostics:
        with self._autocast():
            value, diagnostics = self._compute(part, loss, *args)
        diagnostics = {name: self._from_before(tensor) for name, tensor in diagnostics.items()}
        self._optimisers[part].step(value)
        self.logged.log(f"{part}/loss", value.detach())
        for name, tensor in diagnostics.items():
            if tensor.ndim == value.ndim:  # one number for each seed
                self.logged.log(f"{part}/{name}", tensor)
        return diagnostics

    def _from_before(self, diagnostic: Tensor) -> Tensor:
        """A diagnostic with its present values: one that is a parameter or a buffer itself is copied."""
        tensor = diagnostic.detach()
        return tensor.clone() if tensor.untyped_storage().data_ptr() in self._addresses else tensor

    @functools.cached_property
    def _addresses(self) -> frozenset[int]:
        """Where parameters and buffers lie in memory. They are changed in place."""
        return frozenset(tensor.untyped_storage().data_ptr() for tensor in self._tensors())

    @abstractmethod
    def _tensors(self) -> Iterable[Tensor]:
        """All parameters and buffers."""

    @abstractmethod
    def track(self, target: str, online: str, tau: float) -> None:
        """Move one part towards another, as in `algos.agent.Learner`."""

    @abstractmethod
    def _compute(self, part: str | None, function: Any, *args: Any) -> Any:
        """`function(*args)` for every seed. At most the gradient of one part is needed."""


class EagerLearner(BaseLearner):
    """Trains one agent, operation by operation."""

    def __init__(self, agent: Agent[Any], device: torch.device, autocast: Autocast = nullcontext) -> None:
        super().__init__(agent, device, autocast, seeds=1)
        for parameter in agent.parameters():
            parameter.data = parameter.data.contiguous()  # the fused optimiser ignores strides
        self._optimisers = {
            part: Optimiser([p for p in agent.get_submodule(part).parameters() if p.requires_grad], spec)
            for part, spec in agent.optimisers().items()
        }

    @torch.no_grad()
    def act(self, obs: Tensor, explore: bool) -> Tensor:
        """Actions [N, act_dim] for obs [N, obs_dim]."""
        with self._autocast():
            return self.agent.act(obs, explore)

    @torch.no_grad()
    def track(self, target: str, online: str, tau: float) -> None:
        averages: list[Tensor] = list(self.agent.get_submodule(target).parameters())
        currents: list[Tensor] = list(self.agent.get_submodule(online).parameters())
        torch._foreach_lerp_(averages, currents, tau)

    def _compute(self, part: str | None, function: Any, *args: Any) -> Any:
        return function(*args)

    def _tensors(self) -> Iterable[Tensor]:
        return [*self.agent.parameters(), *self.agent.buffers()]

    def state(self) -> State:
        """Weights, optimisers, counters and means."""
        parts = {f"adam.{part}": optimiser.state() for part, optimiser in self._optimisers.items()}
        return flat({"agent": self.agent.state_dict(), **parts}, updates=self.updates) | self.logged.state()

    def restore(self, state: State) -> None:
        """Continue from `state`."""
        self.agent.load_state_dict(under("agent", state))
        for part, optimiser in self._optimisers.items():
            optimiser.restore([under(f"adam.{part}", state)])
        self.updates = int(state["updates"])
        self.logged.restore([state], self.device)

    def means(self) -> dict[str, float]:
        """The mean of each logged scalar since the last `pop_means`, by "part/name"."""
        return self.logged.read()

    def pop_means(self) -> dict[str, float]:
        """Return `means` and reset them."""
        means = self.means()
        self.logged.clear()
        return means

    def rehearse(self) -> list[str]:
        """Run one period of updates on a copy, with invented transitions. Returns the names that are logged.

        An error in an algorithm is found here, before the random steps are taken.
        """
        twin = EagerLearner(copy.deepcopy(self.agent), self.device, self._autocast)
        batch = invented_batch(self.agent, self.device)
        for _ in range(self.agent.period):
            twin.update(batch)
        for explore in (True, False):
            chosen = twin.act(batch.obs, explore)
            if chosen.shape != batch.action.shape:
                given, wanted, n = tuple(chosen.shape), tuple(batch.action.shape), len(batch.obs)
                raise ValueError(f"act(obs, explore={explore}) gave shape {given} for {n} observations, not {wanted}")
            if not chosen.isfinite().all():
                raise FloatingPointError(f"act(obs, explore={explore}) gave an action that is not finite")
            if not (chosen.abs() <= 1.0).all():
                raise ValueError(f"act(obs, explore={explore}) gave an action outside [-1, 1]")
        return list(twin.pop_means())


def invented_batch(agent: Agent[Any], device: torch.device, n: int = 3) -> Batch:
    """n invented transitions [n, ...] to test an agent with."""
    obs = torch.randn(n, agent.obs_dim, device=device)
    action = torch.rand(n, agent.act_dim, device=device) * 2 - 1
    one = torch.ones(n, device=device)
    return Batch(obs, action, one, obs, one, one[0])
