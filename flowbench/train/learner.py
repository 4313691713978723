"""Learners: what turns an agent's losses into parameter updates, one agent or the agents of several seeds at once."""

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
from flowbench.common.tensors import State, flat, under
from flowbench.train.rng import TorchStream

MOMENTS = ("exp_avg", "exp_avg_sq")


class CannotStack(ValueError):
    """An agent that cannot be mapped over seeds; the message names the line, or what is wrong."""


Autocast = Callable[[], AbstractContextManager[object]]


class Means:
    """Running means of logged scalars of S seeds, kept on the device until they are asked for."""

    def __init__(self, seeds: int = 1) -> None:
        self.counts: Counter[str] = Counter()  # how often each name was ever logged
        self._seeds = seeds
        self._sums: dict[str, Tensor] = {}
        self._cleared = [Counter[str]() for _ in range(seeds)]  # what the counts were when a seed began anew

    def log(self, name: str, value: Tensor) -> None:
        """Add one value a seed, [S], or [] of a single seed."""
        if name not in self._sums:
            dtype = torch.promote_types(value.dtype, torch.float32)
            self._sums[name] = torch.zeros(self._seeds, dtype=dtype, device=value.device)
        self._sums[name].add_(value)  # in place: a captured graph keeps writing to this very tensor
        self.counts[name] += 1

    def read(self, slot: int = 0) -> dict[str, float]:
        """The means of one seed since it was cleared, by name."""
        since = self._cleared[slot]
        names = [name for name in self._sums if self.counts[name] > since[name]]
        if not names:
            return {}
        sums = torch.stack([self._sums[name][slot].double() for name in names]).tolist()
        return {name: total / (self.counts[name] - since[name]) for name, total in zip(names, sums, strict=True)}

    def clear(self, slot: int = 0) -> None:
        """Begin anew with one seed."""
        self._cleared[slot] = self.counts.copy()
        for total in self._sums.values():
            total[slot] = 0.0

    def state(self, slot: int = 0) -> State:
        """One seed's sums and counts since it was cleared."""
        counts = {name: torch.tensor(self.counts[name] - self._cleared[slot][name]) for name in self._sums}
        return flat({"sums": {name: total[slot] for name, total in self._sums.items()}, "counts": counts})

    def restore(self, states: Sequence[State], device: torch.device) -> None:
        """Take up what `state` gave of every seed; the sums lie on `device`."""
        for name in under("sums", states[0]):
            counts = [int(state[f"counts.{name}"]) for state in states]
            self._sums[name] = torch.stack([state[f"sums.{name}"] for state in states]).to(device)
            self.counts[name] = max(counts)
            for cleared, count in zip(self._cleared, counts, strict=True):
                cleared[name] = max(counts) - count


class _Learner(ABC):
    """What learning is alike in for one seed and for several at once. Implements `algos.agent.Learner`."""

    def __init__(self, agent: Agent[Any], device: torch.device, autocast: Autocast, seeds: int) -> None:
        """`autocast()` is entered for every loss and every choice of actions."""
        self.agent = agent.to(device)
        self.device = device
        self.updates = 0
        self.logged = Means(seeds)
        self._autocast = autocast
        self._optimisers: dict[str, _Optimiser] = {}

    def update(self, batch: Batch) -> None:
        """One update; the tensors of the batch are [B, ...], or [S, B, ...] of S seeds."""
        self.agent.update(batch, self, self.updates % self.agent.period)
        self.updates += 1

    def minimise(self, part: str, loss: Loss, *args: Any) -> Diagnostics:
        with self._autocast():
            value, diagnostics = self._compute(loss, *args)
        self._optimisers[part].step(value.sum())  # seeds share no parameter: the sum's gradient is that of each
        diagnostics = {name: tensor.detach() for name, tensor in diagnostics.items()}
        self.logged.log(f"{part}/loss", value.detach())
        for name, tensor in diagnostics.items():
            if tensor.ndim == value.ndim:  # one number a seed
                self.logged.log(f"{part}/{name}", tensor)
        return diagnostics

    @abstractmethod
    def track(self, target: str, online: str, tau: float) -> None:
        """Move a part towards another, as in `algos.agent.Learner`."""

    @abstractmethod
    def _compute(self, function: Any, *args: Any) -> Any:
        """`function(*args)`, of every seed."""


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
        """Take up what `state` gave."""
        self.agent.load_state_dict(under("agent", state))
        for part, optimiser in self._optimisers.items():
            optimiser.restore([under(f"adam.{part}", state)])
        self.updates = int(state["updates"])
        self.logged.restore([state], self.device)

    def means(self) -> dict[str, float]:
        """The mean of each logged scalar since they were last popped, by "part/name"."""
        return self.logged.read()

    def pop_means(self) -> dict[str, float]:
        """`means`, which then begin anew."""
        means = self.means()
        self.logged.clear()
        return means

    def rehearse(self) -> list[str]:
        """Run one period of updates on a copy with invented transitions; return the names that will be logged.

        A mistake in an algorithm shows here, before its random steps are taken.
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

    Every parameter and buffer is held as [S, ...]. The agent stays what its file says, written for one seed: its
    losses and its `act` are mapped over the seeds, so that each sees its own parameters and its own batch.
    """

    def __init__(self, agents: Sequence[Agent[Any]], device: torch.device, autocast: Autocast = nullcontext) -> None:
        # The copy's methods are called; its own parameters are never used.
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

    def weights(self, slot: int) -> dict[str, Tensor]:
        """The state_dict of one seed's agent, as views."""
        return {name: self._state[name][slot].detach() for name in self.agent.state_dict()}

    def state(self, slot: int) -> State:
        """Weights, optimisers, counters and means of one seed, as an `EagerLearner` has them."""
        parts = {f"adam.{part}": optimiser.state(slot) for part, optimiser in self._optimisers.items()}
        return flat({"agent": self.weights(slot), **parts}, updates=self.updates) | self.logged.state(slot)

    @torch.no_grad()
    def restore(self, states: Sequence[State]) -> None:
        """Take up what `state` gave of every seed."""
        for name in self.agent.state_dict():
            self._state[name].copy_(torch.stack([state[f"agent.{name}"] for state in states]))
        for part, optimiser in self._optimisers.items():
            optimiser.restore([under(f"adam.{part}", state) for state in states])
        self.updates = int(states[0]["updates"])
        self.logged.restore(states, self.device)

    def rehearse(self) -> None:
        """Run one period of updates, and both ways of acting, on copies.

        Raises what an agent raises that cannot be stacked, such as one whose loss branches on a tensor, and CannotStack
        for one that would be trained wrongly without a word.
        """
        one = invented_batch(self.agent, self.device)
        self._refuse_changes(Batch(*(torch.stack([each] * self.seeds) for each in one)))
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
        """What the first seed logs in a period of updates of a copy; the same noise each time."""
        twin = StackedLearner([self.agent] * self.seeds, self.device, self._autocast)
        # Outside a loss or `act` the agent's own tensors are those of no seed: to compute with them fails on "meta".
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

    def _refuse_changes(self, batch: Batch) -> None:
        """Raise CannotStack where `update` gives other values to the agent's own tensors, also past autograd's eyes."""
        twin = StackedLearner([self.agent] * self.seeds, self.device, self._autocast)
        before = {name: tensor.detach().clone() for name, tensor in _tensors(twin.agent)}
        with TorchStream(0, self.device):
            for _ in range(self.agent.period):
                twin.update(batch)
        for name, tensor in _tensors(twin.agent):
            if name not in before or not torch.equal(tensor, before[name]):
                raise _changes(name)

    def _compute(self, function: Any, *args: Any) -> Any:
        """`function(*args)` of every seed, tensors among the arguments being one [S, ...] for all."""
        dims = tree_map(lambda each: 0 if isinstance(each, Tensor) else None, args)

        def one_seed(state: dict[str, Tensor], *args: Any) -> Any:
            return functional_call(self._call, state, (function, *args))

        state = {f"agent.{name}": tensor for name, tensor in self._state.items()}
        return vmap(one_seed, in_dims=(0, *dims), randomness="different")(state, *args)

    def _of(self, part: str) -> list[Tensor]:
        """The stacked parameters of a sub-module."""
        return [self._state[name] for name in self._parameters if name.startswith(f"{part}.")]


def _changes(name: str) -> CannotStack:
    return CannotStack(f"update() changes {name}, of which every seed has its own; a loss can change it")


def _tensors(agent: Agent[Any]) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers with their names."""
    yield from agent.named_parameters()
    yield from agent.named_buffers()


class _Call(nn.Module):
    """Gives `functional_call`, which calls a module, an agent's methods to call."""

    def __init__(self, agent: Agent[Any]) -> None:
        super().__init__()
        self.agent = agent

    def forward(self, function: Any, *args: Any) -> Any:
        return function(*args)


class _Optimiser:
    """Adam on the parameters of one part, [...] of one seed or [S, ...] of S."""

    def __init__(self, parameters: list[Tensor], spec: Adam, seeds: int | None = None) -> None:
        self._parameters = parameters
        self._clip_norm = spec.clip_norm
        self._seeds = seeds
        self.adam = torch.optim.Adam(parameters, lr=spec.lr, eps=spec.eps, fused=True, capturable=parameters[0].is_cuda)

    def step(self, loss: Tensor) -> None:
        # Only this part's gradients are computed: a critic's weights get none from the actor's loss.
        # The fused optimiser walks memory, and takes a transposed gradient for another one without a word.
        gradients = [gradient.contiguous() for gradient in torch.autograd.grad(loss, self._parameters)]
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        if self._clip_norm is not None:
            self._clip(gradients, self._clip_norm)
        self.adam.step()

    def state(self, slot: int | None = None) -> State:
        """Adam's moments and step counts by parameter, of one seed; nothing before the first step."""
        found: State = {}
        for index, parameter in enumerate(self._parameters):
            if kept := self.adam.state[parameter]:
                found[f"{index}.step"] = kept["step"]
                for moment in MOMENTS:
                    found[f"{index}.{moment}"] = kept[moment] if slot is None else kept[moment][slot]
        return found

    def restore(self, states: Sequence[State]) -> None:
        """Take up what `state` gave, of each seed."""
        for index, parameter in enumerate(self._parameters if states[0] else ()):
            kept = {"step": states[0][f"{index}.step"].to(parameter.device, copy=True)}
            for moment in MOMENTS:
                of_seeds = [state[f"{index}.{moment}"] for state in states]
                one = of_seeds[0] if self._seeds is None else torch.stack(of_seeds)
                kept[moment] = one.to(parameter, copy=True)
            self.adam.state[parameter] = kept

    def _clip(self, gradients: Sequence[Tensor], norm: float) -> None:
        if self._seeds is None:
            nn.utils.clip_grad_norm_(self._parameters, norm)
            return
        norms = torch.stack([gradient.reshape(self._seeds, -1).norm(dim=1) for gradient in gradients]).norm(dim=0)
        scale = (norm / (norms + 1e-6)).clamp(max=1.0)  # the same small term as in torch's own
        for gradient in gradients:
            gradient.mul_(scale.view(-1, *[1] * (gradient.ndim - 1)))


def invented_batch(agent: Agent[Any], device: torch.device, n: int = 2) -> Batch:
    """n transitions that no environment gave, [n, ...], to try an agent on."""
    obs = torch.randn(n, agent.obs_dim, device=device)
    action = torch.rand(n, agent.act_dim, device=device) * 2 - 1
    one = torch.ones(n, device=device)
    return Batch(obs, action, one, obs, one, one[0])
