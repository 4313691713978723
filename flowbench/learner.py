"""Learners: what turns an agent's losses into parameter updates."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from algos.agent import Adam, Agent, Batch, Diagnostics, Loss


class EagerLearner:
    """Trains one agent, operation by operation. Implements `algos.agent.Learner`."""

    def __init__(self, agent: Agent[Any], device: torch.device) -> None:
        self.agent = agent.to(device)
        self.updates = 0
        self._parts = {part: _Part(agent.get_submodule(part), spec) for part, spec in agent.optimisers().items()}
        self._sums: dict[str, Tensor] = {}
        self._counts: defaultdict[str, int] = defaultdict(int)

    def update(self, batch: Batch) -> None:
        """One update of the agent."""
        self.agent.update(batch, self, self.updates % self.agent.period)
        self.updates += 1

    @torch.no_grad()
    def act(self, obs: Tensor, explore: bool) -> Tensor:
        """Actions [N, act_dim] for obs [N, obs_dim]."""
        return self.agent.act(obs, explore)

    def minimise(self, part: str, loss: Loss, *args: Any) -> Diagnostics:
        value, diagnostics = loss(*args)
        self._parts[part].step(value)
        diagnostics = {name: tensor.detach() for name, tensor in diagnostics.items()}
        self._log(f"{part}/loss", value.detach())
        for name, tensor in diagnostics.items():
            if tensor.ndim == 0:
                self._log(f"{part}/{name}", tensor)
        return diagnostics

    @torch.no_grad()
    def track(self, target: str, online: str, tau: float) -> None:
        averages: list[Tensor] = list(self.agent.get_submodule(target).parameters())
        currents: list[Tensor] = list(self.agent.get_submodule(online).parameters())
        torch._foreach_lerp_(averages, currents, tau)

    def means(self) -> dict[str, float]:
        """The mean of each logged scalar since they were last popped, by "part/name"."""
        return {name: float(total) / self._counts[name] for name, total in self._sums.items()}

    def pop_means(self) -> dict[str, float]:
        """`means`, which then begin anew."""
        means = self.means()
        self._sums.clear()
        self._counts.clear()
        return means

    def rehearse(self) -> list[str]:
        """Run one period of updates on a copy with invented transitions; return the names that will be logged.

        A mistake in an algorithm shows here, before its random steps are taken.
        """
        twin = EagerLearner(copy.deepcopy(self.agent), self._device)
        n = 2
        obs = torch.randn(n, self.agent.obs_dim, device=self._device)
        action = torch.rand(n, self.agent.act_dim, device=self._device) * 2 - 1
        one = torch.ones(n, device=self._device)
        for _ in range(self.agent.period):
            twin.update(Batch(obs, action, one, obs, one, one[0]))
        for explore in (True, False):
            chosen = twin.act(obs, explore)
            if chosen.shape != action.shape:
                given, wanted = tuple(chosen.shape), tuple(action.shape)
                raise ValueError(f"act(obs, explore={explore}) gave shape {given} for {n} observations, not {wanted}")
            if not (chosen.abs() <= 1.0).all():
                raise ValueError(f"act(obs, explore={explore}) gave an action outside [-1, 1]")
        return list(twin.pop_means())

    @property
    def _device(self) -> torch.device:
        return next(self.agent.parameters()).device

    def _log(self, name: str, value: Tensor) -> None:
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts[name] += 1


class _Part:
    """A trained sub-module with its optimiser."""

    def __init__(self, module: nn.Module, spec: Adam) -> None:
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._clip_norm = spec.clip_norm
        self._optimiser = torch.optim.Adam(self._parameters, lr=spec.lr, eps=spec.eps, fused=True)

    def step(self, loss: Tensor) -> None:
        # Only this part's gradients are computed: a critic's weights get none from the actor's loss.
        gradients = torch.autograd.grad(loss, self._parameters)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        self._optimiser.step()
