"""Learners turn the losses of an agent, or of the agents of several seeds at once, into parameter updates."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.utils._pytree import tree_map

from algos.agent import Adam, Agent, Batch, Diagnostics, Loss
from flowbench.common.rng import TorchStream
from flowbench.common.tensors import State, flat, under

MOMENTS = ("exp_avg", "exp_avg_sq")


class CannotStack(ValueError):
    """An agent cannot be mapped over seeds. The message names the line or the reason."""


Autocast = Callable[[], AbstractContextManager[object]]


class Means:
    """Running means of the scalars that S seeds log, on the device until they are read."""

    def __init__(self, seeds: int = 1) -> None:
        self.counts: Counter[str] = Counter()  # how often each name was logged in total
        self._seeds = seeds
        self._sums: dict[str, Tensor] = {}
        self._cleared = [Counter[str]() for _ in range(seeds)]  # the counts when a seed was last cleared

    def log(self, name: str, value: Tensor) -> None:
        """Add one value for each seed: [S], or [] for a single seed."""
        if name not in self._sums:
            dtype = torch.promote_types(value.dtype, torch.float32)
            self._sums[name] = torch.zeros(self._seeds, dtype=dtype, device=value.device)
        self._sums[name].add_(value)  # in place, because a captured graph keeps writing to this tensor
        self.counts[name] += 1

    def read(self, index: int = 0) -> dict[str, float]:
        """The means of one seed since its last `clear`, by name."""
        since = self._cleared[index]
        names = [name for name in self._sums if self.counts[name] > since[name]]
        if not names:
            return {}
        sums = torch.stack([self._sums[name][index].double() for name in names]).tolist()
        return {name: total / (self.counts[name] - since[name]) for name, total in zip(names, sums, strict=True)}

    def clear(self, index: int = 0) -> None:
        """Reset the means of one seed."""
        self._cleared[index] = self.counts.copy()
        for total in self._sums.values():
            total[index] = 0.0

    def state(self, index: int = 0) -> State:
        """The sums and counts of one seed since its last `clear`."""
        counts = {name: torch.tensor(self.counts[name] - self._cleared[index][name]) for name in self._sums}
        return flat({"sums": {name: total[index] for name, total in self._sums.items()}, "counts": counts})

    def restore(self, states: Sequence[State], device: torch.device) -> None:
        """Continue from the `state` of every seed, with the sums on `device`."""
        for index in range(len(states)):
            self.clear(index)
        for name in under("sums", states[0]):
            counts = [int(state[f"counts.{name}"]) for state in states]
            sums = torch.stack([state[f"sums.{name}"] for state in states])
            self._sums.setdefault(name, torch.zeros_like(sums, device=device)).copy_(sums)  # in place, as in `log`
            self.counts[name] = max(counts)
            for cleared, count in zip(self._cleared, counts, strict=True):
                cleared[name] = max(counts) - count


class _Learner(ABC):
    """The common part of the learners. Implements `algos.agent.Learner`."""

    def __init__(self, agent: Agent[Any], device: torch.device, autocast: Autocast, seeds: int) -> None:
        """Every loss and every choice of actions is computed inside a new `autocast()`."""
        self.agent = agent.to(device)
        self.device = device
        self.updates = 0
        self.logged = Means(seeds)
        self._autocast = autocast
        self._optimisers: dict[str, _Optimiser] = {}

    def update(self, batch: Batch) -> None:
        """One update. The tensors of the batch are [B, ...], or [S, B, ...] for S seeds."""
        self.agent.update(batch, self, self.updates % self.agent.period)
        self.updates += 1

    def minimise(self, part: str, loss: Loss, *args: Any) -> Diagnostics:
        with self._autocast():
            value, diagnostics = self._compute(loss, *args)
        self._optimisers[part].step(value.sum())  # seeds share no parameter: the sum has the gradient of each
        diagnostics = {name: tensor.detach() for name, tensor in diagnostics.items()}
        self.logged.log(f"{part}/loss", value.detach())
        for name, tensor in diagnostics.items():
            if tensor.ndim == value.ndim:  # one number for each seed
                self.logged.log(f"{part}/{name}", tensor)
        return diagnostics

    @abstractmethod
    def track(self, target: str, online: str, tau: float) -> None:
        """Move one part towards another, as in `algos.agent.Learner`."""

    @abstractmethod
    def _compute(self, function: Any, *args: Any) -> Any:
        """`function(*args)` for every seed."""


class EagerLearner(_Learner):
    """Trains one agent, operation by operation."""

    def __init__(self, agent: Agent[Any], device: torch.device, autocast: Autocast = nullcontext) -> None:
        super().__init__(agent, device, autocast, seeds=1)
        self._optimisers = {
            part: _Optimiser([p for p in agent.get_submodule(part).parameters() if p.requires_grad], spec)
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

    def _compute(self, function: Any, *args: Any) -> Any:
        return function(*args)

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


class StackedLearner(_Learner):
    """Trains the agents of S seeds as one batched computation.

    Every parameter and buffer is stored as [S, ...]. The agent itself is written for one seed: its losses and its `act`
    are mapped over the seeds, and each call sees the parameters and the batch of one seed.
    """

    def __init__(self, agents: Sequence[Agent[Any]], device: torch.device, autocast: Autocast = nullcontext) -> None:
        # Only the methods of this copy are used, not its parameters.
        super().__init__(copy.deepcopy(agents[0]), device, autocast, seeds=len(agents))
        self.seeds = len(agents)
        parameters, buffers = stack_module_state([agent.to(device) for agent in agents])
        self._state = {name: tensor.detach() for name, tensor in {**parameters, **buffers}.items()}
        for name, parameter in self.agent.named_parameters():
            self._state[name].requires_grad_(parameter.requires_grad)
        self._parameters = list(parameters)
        self._optimisers = {
            part: _Optimiser([p for p in self._of(part) if p.requires_grad], spec, self.seeds)
            for part, spec in self.agent.optimisers().items()
        }
        self._call = _Call(self.agent)

    @torch.no_grad()
    def act(self, obs: Tensor, explore: bool) -> Tensor:
        """Actions [S, N, act_dim] for obs [S, N, obs_dim]."""
        with self._autocast():
            action: Tensor = self._compute(lambda obs: self.agent.act(obs, explore), obs)
        return action

    @torch.no_grad()
    def track(self, target: str, online: str, tau: float) -> None:
        torch._foreach_lerp_(self._of(target), self._of(online), tau)

    def weights(self, index: int) -> dict[str, Tensor]:
        """The state_dict of one seed's agent, as views."""
        return {name: self._state[name][index].detach() for name in self.agent.state_dict()}

    def state(self, index: int) -> State:
        """Weights, optimisers, counters and means of one seed, in the format of `EagerLearner`."""
        parts = {f"adam.{part}": optimiser.state(index) for part, optimiser in self._optimisers.items()}
        return flat({"agent": self.weights(index), **parts}, updates=self.updates) | self.logged.state(index)

    @torch.no_grad()
    def restore(self, states: Sequence[State]) -> None:
        """Continue from the `state` of every seed."""
        for name in self.agent.state_dict():
            self._state[name].copy_(torch.stack([state[f"agent.{name}"] for state in states]))
        for part, optimiser in self._optimisers.items():
            optimiser.restore([under(f"adam.{part}", state) for state in states])
        self.updates = int(states[0]["updates"])
        self.logged.restore(states, self.device)

    def rehearse(self) -> None:
        """Run one period of updates, and both ways of acting, on copies.

        An agent that cannot be stacked raises an error here, for example if its loss branches on a tensor. Raises
        CannotStack if stacking would train the agent wrongly without an error.
        """
        one = invented_batch(self.agent, self.device)
        self._reject_changes(Batch(*(torch.stack([each] * self.seeds) for each in one)))
        other = Batch(-one.obs, -one.action, -one.reward, -one.next_obs, 1.0 - one.discount, 1.0 - one.progress)
        alike, apart = (
            self._rehearsed(Batch(*(torch.stack([first, *[rest] * (self.seeds - 1)]) for first, rest in pairs)))
            for pairs in (list(zip(one, one, strict=True)), list(zip(one, other, strict=True)))
        )
        for name, mean in alike.items():
            if mean == mean and not math.isclose(mean, apart[name], rel_tol=1e-3, abs_tol=1e-6):
                raise CannotStack(
                    f"{name} of a seed depends on the batch of another; it must be an argument of the loss"
                )

    def _rehearsed(self, batch: Batch) -> dict[str, float]:
        """What the first seed logs in one period of updates of a copy, with the same noise in each call."""
        twin = StackedLearner([self.agent] * self.seeds, self.device, self._autocast)
        # Outside losses and `act` the agent's own tensors belong to no seed. On "meta", computing with them fails.
        twin.agent.to("meta")
        own = dict(_tensors(twin.agent))
        versions = {name: tensor._version for name, tensor in own.items()}
        with TorchStream(0, self.device):
            for _ in range(self.agent.period):
                twin.update(batch)
            for explore in (True, False):
                twin.act(batch.obs, explore)
        for name, tensor in _tensors(twin.agent):
            if tensor is not own.get(name) or tensor._version != versions[name]:
                raise _changes(name)
        return twin.logged.read()

    def _reject_changes(self, batch: Batch) -> None:
        """Raise CannotStack if `update` changes values of the agent's own tensors, also through `.data`."""
        twin = StackedLearner([self.agent] * self.seeds, self.device, self._autocast)
        before = {name: tensor.detach().clone() for name, tensor in _tensors(twin.agent)}
        with TorchStream(0, self.device):
            for _ in range(self.agent.period):
                twin.update(batch)
        for name, tensor in _tensors(twin.agent):
            if name not in before or not torch.equal(tensor, before[name]):
                raise _changes(name)

    def _compute(self, function: Any, *args: Any) -> Any:
        """`function(*args)` for every seed. Each tensor among the arguments is [S, ...]."""
        dims = tree_map(lambda each: 0 if isinstance(each, Tensor) else None, args)

        def one_seed(state: dict[str, Tensor], *args: Any) -> Any:
            return functional_call(self._call, state, (function, *args))

        state = {f"agent.{name}": tensor for name, tensor in self._state.items()}
        return vmap(one_seed, in_dims=(0, *dims), randomness="different")(state, *args)

    def _of(self, part: str) -> list[Tensor]:
        """The stacked parameters of a sub-module."""
        return [self._state[name] for name in self._parameters if name.startswith(f"{part}.")]


def _changes(name: str) -> CannotStack:
    return CannotStack(f"update() changes {name}, which each seed has separately; change it in a loss instead")


def _tensors(agent: Agent[Any]) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers with their names."""
    yield from agent.named_parameters()
    yield from agent.named_buffers()


class _Call(nn.Module):
    """A module for `functional_call` whose `forward` calls any function that uses the agent."""

    def __init__(self, agent: Agent[Any]) -> None:
        super().__init__()
        self.agent = agent

    def forward(self, function: Any, *args: Any) -> Any:
        return function(*args)


class _Optimiser:
    """Adam on the parameters of one part, [...] for one seed or [S, ...] for S."""

    def __init__(self, parameters: list[Tensor], spec: Adam, seeds: int | None = None) -> None:
        self._parameters = parameters
        self._clip_norm = spec.clip_norm
        self._seeds = seeds
        self.adam = torch.optim.Adam(parameters, lr=spec.lr, eps=spec.eps, fused=True, capturable=parameters[0].is_cuda)

    def step(self, loss: Tensor) -> None:
        # Only the gradients of this part: the actor's loss gives the critic's weights none.
        # The fused optimiser ignores strides, so a transposed gradient would be applied wrongly.
        gradients = [gradient.contiguous() for gradient in torch.autograd.grad(loss, self._parameters)]
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        if self._clip_norm is not None:
            self._clip(gradients, self._clip_norm)
        self.adam.step()

    def state(self, index: int | None = None) -> State:
        """Adam's moments and step counts of one seed, by parameter. Empty before the first step."""
        found: State = {}
        for k, parameter in enumerate(self._parameters):
            if kept := self.adam.state[parameter]:
                found[f"{k}.step"] = kept["step"]
                for moment in MOMENTS:
                    found[f"{k}.{moment}"] = kept[moment] if index is None else kept[moment][index]
        return found

    def restore(self, states: Sequence[State]) -> None:
        """Continue from the `state` of each seed, in place, because a captured graph keeps writing to these tensors."""
        for index, parameter in enumerate(self._parameters):
            kept = self.adam.state[parameter]
            if not states[0]:  # from before the first step
                for tensor in kept.values():
                    tensor.zero_()
                continue
            step = states[0][f"{index}.step"]
            kept.setdefault("step", torch.zeros_like(step, device=parameter.device)).copy_(step)
            for moment in MOMENTS:
                of_seeds = [state[f"{index}.{moment}"] for state in states]
                one = of_seeds[0] if self._seeds is None else torch.stack(of_seeds)
                kept.setdefault(moment, torch.zeros_like(parameter)).copy_(one)

    def _clip(self, gradients: Sequence[Tensor], norm: float) -> None:
        if self._seeds is None:
            nn.utils.clip_grad_norm_(self._parameters, norm)
            return
        norms = torch.stack([gradient.reshape(self._seeds, -1).norm(dim=1) for gradient in gradients]).norm(dim=0)
        scale = (norm / (norms + 1e-6)).clamp(max=1.0)  # the same small constant as in torch
        for gradient in gradients:
            gradient.mul_(scale.view(-1, *[1] * (gradient.ndim - 1)))


def invented_batch(agent: Agent[Any], device: torch.device, n: int = 2) -> Batch:
    """n invented transitions [n, ...] to test an agent with."""
    obs = torch.randn(n, agent.obs_dim, device=device)
    action = torch.rand(n, agent.act_dim, device=device) * 2 - 1
    one = torch.ones(n, device=device)
    return Batch(obs, action, one, obs, one, one[0])
