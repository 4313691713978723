"""The learner of several seeds whose agents are trained as one batched computation."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.utils._pytree import tree_map

from algos.agent import Adam, Agent, Batch
from flowbench.common.rng import TorchStream
from flowbench.common.tensors import State, flat, under
from flowbench.learners import stacked_layers
from flowbench.learners.learner import (
    Autocast,
    BaseLearner,
    checked_optimisers,
    invented_batch,
    invented_transition,
    parameters_of,
    within,
)
from flowbench.learners.optimiser import Optimiser


class CannotStack(ValueError):
    """An agent cannot be mapped over seeds. The message names the line or the reason."""


class StackedLearner(BaseLearner):
    """Trains the agents of S seeds as one batched computation.

    Every parameter and buffer is stored as [S, ...]. The agent itself is written for one seed: its losses and its `act`
    are mapped over the seeds, and each call sees the parameters and the batch of one seed.
    """

    def __init__(
        self,
        agents: Sequence[Agent[Any]],
        device: torch.device,
        autocast: Autocast = nullcontext,
        few_kernels: bool | None = None,
    ) -> None:
        """`few_kernels` replaces the layers by those of `stacked_layers`; by default on a GPU only.

        They need fewer operations, but each has more overhead in Python, which a CUDA graph does not repeat.
        """
        # Only the methods of this copy are used, not its parameters.
        super().__init__(copy.deepcopy(agents[0]), device, autocast, seeds=len(agents))
        self.seeds = len(agents)
        self._example = agents[0]
        self._few_kernels = device.type == "cuda" if few_kernels is None else few_kernels
        joined = stacked_layers.install(self.agent) if self._few_kernels else {}
        parameters, buffers = stack_module_state([agent.to(device) for agent in agents])
        self._buffers = list(buffers)
        stacked = {name: tensor.detach() for name, tensor in {**parameters, **buffers}.items()}
        # Where each tensor of an agent is stored: under which name and, of two joined twins, as which one.
        self._places = {name: joined.get(name, (name, None)) for name in stacked}
        names = _by_value({name: stored for name, (stored, _) in self._places.items()})
        self._state = {
            stored: stacked[of[0]] if len(of) == 1 else torch.stack([stacked[name] for name in of], dim=1)
            for stored, of in names.items()
        }
        for name, parameter in self._example.named_parameters():
            self._state[self._places[name][0]].requires_grad_(parameter.requires_grad)
        self._tied = {name: self._places[first][0] for name, first in _tied(self.agent).items()}
        places = self._places | {name: self._places[first] for name, first in _other_names(self._example).items()}
        # In the order of the modules, so that a target's tensors are in the order of those that it tracks.
        self._places = {name: places[name] for name in _all_names(self._example)}
        checked_optimisers(self._example)
        # Those of `self.agent`: a schedule that uses tensors of the agent is then found in the rehearsal.
        specs = dict(self.agent.optimisers())
        self._optimisers = {part: self._optimiser(part, spec) for part, spec in specs.items()}
        frozen = {name: tensor.detach() for name, tensor in self._state.items()}
        self._seen: dict[str | None, dict[str, Tensor]] = {None: frozen}  # the state as the loss of a part sees it
        for part in self._optimisers:
            own = self._names_of(part, "parameters").values()
            self._seen[part] = frozen | {name: self._state[name] for name in own}
        self._cast = stacked_layers.CastParameters(self.agent)
        self._call = _Call(self.agent)

    def weights(self, index: int) -> dict[str, Tensor]:
        """The state_dict of one seed's agent, as views."""
        return {name: self._tensor_of(name)[index] for name in self._example.state_dict()}

    def state(self, index: int) -> State:
        """Weights, optimisers, counters and means of one seed, in the format of `EagerLearner`."""
        parts = {f"adam.{part}": optimiser.state(index) for part, optimiser in self._optimisers.items()}
        return flat({"agent": self.weights(index), **parts}, updates=self.updates) | self.logged.state(index)

    @torch.no_grad()
    def restore(self, states: Sequence[State]) -> None:
        """Continue from the `state` of every seed."""
        for name in self._example.state_dict():
            self._tensor_of(name).copy_(torch.stack([state[f"agent.{name}"] for state in states]))
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
        twin = StackedLearner([self._example] * self.seeds, self.device, self._autocast, self._few_kernels)
        # Outside losses and `act` the agent's own tensors belong to no seed. On "meta", computing with them fails.
        twin.agent.to("meta")
        own = dict(_named_tensors(twin.agent))
        versions = {name: tensor._version for name, tensor in own.items()}
        with TorchStream(0, self.device):
            if twin.observes:
                twin.observe(invented_transition(batch))
            for _ in range(self.agent.period):
                twin.update(batch)
            for explore in (True, False):
                twin.act(batch.obs, explore)
        for name, tensor in _named_tensors(twin.agent):
            if tensor is not own.get(name) or tensor._version != versions[name]:
                raise _changes(name)
        return twin.logged.read()

    def _reject_changes(self, batch: Batch) -> None:
        """Raise CannotStack if `update` changes values of the agent's own tensors, also through `.data`."""
        twin = StackedLearner([self._example] * self.seeds, self.device, self._autocast, self._few_kernels)
        before = {name: tensor.detach().clone() for name, tensor in _named_tensors(twin.agent)}
        with TorchStream(0, self.device):
            for _ in range(self.agent.period):
                twin.update(batch)
        for name, tensor in _named_tensors(twin.agent):
            if name not in before or not torch.equal(tensor, before[name]):
                raise _changes(name)

    def _compute(self, part: str | None, function: Any, *args: Any) -> Any:
        """`function(*args)` for every seed. Each tensor among the arguments is [S, ...]."""
        buffers = {f"agent.{name}": name for name in self._buffers}
        buffers |= {f"agent.{name}": stored for name, stored in self._tied.items() if stored in self._buffers}
        dims = tree_map(lambda each: 0 if isinstance(each, Tensor) else None, args)

        def one_seed(state: dict[str, Tensor], *args: Any) -> Any:
            now = dict(state)  # `functional_call` puts there what the function assigns to parameters and buffers
            result = functional_call(self._call, now, (function, *args), tie_weights=False)
            return result, {name: now[name].detach() for name in buffers if now[name] is not state[name]}

        state = self._seen[part]
        if casting := stacked_layers.autocast_dtype(self.device) is not None:
            state = state | self._cast(part, state)
        state = {f"agent.{name}": tensor for name, tensor in state.items()}
        state |= {f"agent.{name}": state[f"agent.{stored}"] for name, stored in self._tied.items()}
        result, assigned = vmap(one_seed, in_dims=(0, *dims), randomness="different")(state, *args)
        self._assigned = []
        for name, value in assigned.items():
            self._note_assignment(buffers[name], self._state[buffers[name]], value)
        if casting:
            self._cast.note(part)
        return result

    def _reject_assignments(self) -> None:
        """The rehearsal does it."""

    def _tensors(self) -> Iterable[Tensor]:
        return self._state.values()

    def _tensor_of(self, name: str) -> Tensor:
        """A tensor [S, ...] of the agents, by its name in an agent."""
        stored, twin = self._places[name]
        return self._state[stored].detach() if twin is None else self._state[stored].detach()[:, twin]

    def _names_of(self, part: str, kind: str) -> dict[str, str]:
        """The stored names of a part's parameters or buffers, by their first names within the part."""
        first: dict[str, str] = {}
        for name, (stored, _) in within(part, self._places).items():
            if (stored in self._buffers) == (kind == "buffers"):
                first.setdefault(stored, name)
        return {name: stored for stored, name in first.items()}

    def _of(self, part: str, kind: str) -> Iterable[Tensor]:
        return [self._state[stored] for stored in self._names_of(part, kind).values()]

    def _optimiser(self, part: str, spec: Adam) -> Optimiser:
        own = parameters_of(part, self._example)
        found = within(part, self._places)
        places = [(self._state[stored], twin) for stored, twin in map(found.__getitem__, own)]
        stored = {name: self._state[each] for name, each in self._names_of(part, "parameters").items()}
        trained = {name: tensor for name, tensor in stored.items() if tensor.requires_grad}
        return Optimiser(trained, spec, self.seeds, places)


def changed_by_few_kernels(agent: Agent[Any]) -> str:
    """The name of a value that the layers with few kernels compute differently; empty if there is none.

    A loss may look at parameters, which are joined for twins, or draw noise in the memory layout of a layer's result.
    This compares the first update of each phase, computed on the CPU in double precision.
    """
    cpu = torch.device("cpu")
    example = copy.deepcopy(agent).to(cpu).double()
    one = invented_batch(example, cpu)
    batch = Batch(*(torch.stack([part.double()] * 2) for part in one))
    for phase in range(agent.period):
        found = []
        for few_kernels in (True, False):
            learner = StackedLearner([example, example], cpu, few_kernels=few_kernels)
            with TorchStream(0, cpu):
                learner.take_steps(batch, phase)
            found.append((learner.logged.read(), {name: each.clone() for name, each in learner.weights(0).items()}))
        (few, weights), (plain, expected) = found
        for name, mean in plain.items():
            if mean == mean and not math.isclose(few[name], mean, rel_tol=1e-5, abs_tol=1e-9):
                return name
        for name, tensor in expected.items():
            if not torch.allclose(weights[name], tensor, rtol=1e-5, atol=1e-7, equal_nan=True):
                return name
    return ""


def _all_names(agent: Agent[Any]) -> list[str]:
    """All names of parameters, then of buffers, also further names of the same tensor."""
    parameters = [name for name, _ in agent.named_parameters(remove_duplicate=False)]
    return [*parameters, *(name for name, _ in agent.named_buffers(remove_duplicate=False))]


def _other_names(agent: Agent[Any]) -> dict[str, str]:
    """The further names of parameters and buffers that have several, each with the first name."""
    first = {id(tensor): name for name, tensor in _named_tensors(agent)}
    everywhere = [*agent.named_parameters(remove_duplicate=False), *agent.named_buffers(remove_duplicate=False)]
    return {name: first[id(tensor)] for name, tensor in everywhere if first[id(tensor)] != name}


def _tied(agent: Agent[Any]) -> dict[str, str]:
    """Of the further names those in another module. The others name a module that is in two places."""
    owners = {
        name: (id(agent.get_submodule(name.rpartition(".")[0])), name.rpartition(".")[2]) for name in _all_names(agent)
    }
    return {name: first for name, first in _other_names(agent).items() if owners[name] != owners[first]}


def _by_value(names: Mapping[str, str]) -> dict[str, list[str]]:
    """The keys of each value, in their order."""
    found: dict[str, list[str]] = {}
    for key, value in names.items():
        found.setdefault(value, []).append(key)
    return found


def _changes(name: str) -> CannotStack:
    return CannotStack(f"update() changes {name}, which each seed has separately; change it in a loss instead")


def _named_tensors(agent: Agent[Any]) -> Iterator[tuple[str, Tensor]]:
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
