"""A learner turns the losses of an agent into parameter updates; the eager one computes operation by operation."""

from __future__ import annotations

import copy
import functools
import io
import itertools
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from algos.agent import Adam, Agent, Batch, Diagnostics, Loss, Memory, Transition
from flowbench.common.tensors import State, flat, under
from flowbench.learners.means import Means
from flowbench.learners.optimiser import Optimiser

V = TypeVar("V")
KINDS = ("parameters", "buffers")
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
        self._progress = torch.zeros((), device=device)  # of the batch
        self._tracked: dict[tuple[str, str], list[list[Tensor]]] = {}  # what `track` moves, and towards what
        self._assigned: list[tuple[Tensor, Tensor]] = []  # buffers with the values that the last function assigned
        # A module that is in evaluation mode when the agent is made stays in it.
        self._modes = [vars(module) for module in self.agent.modules() if module.training]
        self._sets_modes = any(type(module).train is not nn.Module.train for module in self.agent.modules())

    def update(self, batch: Batch) -> None:
        """One update. The tensors of the batch are [B, ...], or [S, B, ...] for S seeds."""
        self.take_steps(batch, self.updates % self.agent.period)
        self.updates += 1

    def take_steps(self, batch: Batch, phase: int) -> None:
        """The computation of an update: what a CUDA graph records."""
        self._progress = batch.progress
        self._set_mode(training=True)
        try:
            self.agent.update(batch, self, phase)
        except BaseException:
            self.logged.drop()  # of a graph that could not be recorded they are memory without values
            raise
        self._reject_assignments()
        self.logged.add_up()

    @abstractmethod
    def _reject_assignments(self) -> None:
        """Raise ValueError if `update` has assigned a buffer, which only losses may."""

    @property
    def has_memory(self) -> bool:
        """Whether the policy has a memory."""
        return type(self.agent).memory is not Agent.memory

    @torch.no_grad()
    def first_memory(self, obs: Tensor) -> Memory | None:
        """The memory at the start of episodes, for their first observations."""
        if not self.has_memory:
            return None
        self._set_mode(training=False)
        with self._autocast():
            made: Memory = self._compute(None, self.agent.memory, obs)
        return {name: _own_copy(tensor) for name, tensor in made.items()}

    def act(self, obs: Tensor, explore: bool) -> Tensor:
        """Actions [N, act_dim] for obs [N, obs_dim], each [S, ...] for S seeds, as at the start of episodes."""
        return self.act_with_memory(obs, explore, self.first_memory(obs))[0]

    @torch.no_grad()
    def act_with_memory(self, obs: Tensor, explore: bool, memory: Memory | None) -> tuple[Tensor, Memory | None]:
        """Actions as of `act`, and the memory for the next step."""
        self._set_mode(training=False)
        with self._autocast():
            if memory is None:
                return self._compute(None, self.agent.act, obs, explore), None
            action, after = self._compute(None, self.agent.act, obs, explore, memory)
        return action, {name: _own_copy(after[name].to(tensor.dtype)) for name, tensor in memory.items()}

    def minimise(self, part: str, loss: Loss, *args: Any) -> Diagnostics:
        if part not in self._optimisers:
            raise ValueError(f"minimise() names {part!r}, optimisers() does not (choices: {_parts(self._optimisers)})")
        with self._autocast():
            value, diagnostics = self._compute(part, loss, *args)
        diagnostics = {name: self._from_before(tensor) for name, tensor in diagnostics.items()}
        before = self._from_before(value)
        self._optimisers[part].step(value, self._progress)
        self._write_assigned()  # after the backward pass, which may need the old values
        if part in self._projections:
            self._project(part)
        self.logged.log(f"{part}/loss", before)
        for name, tensor in diagnostics.items():
            if tensor.ndim == value.ndim:  # one number for each seed
                self.logged.log(f"{part}/{name}", tensor)
        return diagnostics

    @functools.cached_property
    def _projections(self) -> dict[str, Callable[[nn.Module], None]]:
        return {part: spec.project for part, spec in self.agent.optimisers().items() if spec.project is not None}

    @torch.no_grad()
    def _project(self, part: str) -> None:
        def projected() -> tuple[()]:
            self._projections[part](self.agent.get_submodule(part))
            return ()

        self._compute(None, projected)
        self._write_assigned()

    @property
    def observes(self) -> bool:
        """Whether the agent has an `observe`."""
        return type(self.agent).observe is not Agent.observe

    @torch.no_grad()
    def observe(self, transition: Transition) -> None:
        """Call the agent's `observe` with a transition [...], or [S, ...] for S seeds."""
        self._set_mode(training=False)
        self._compute(None, self._observed, transition)
        self._write_assigned()

    def _observed(self, transition: Transition) -> tuple[()]:
        self.agent.observe(transition)
        return ()

    def _write_assigned(self) -> None:
        for buffer, assigned in self._assigned:
            buffer.copy_(assigned)

    def _note_assignment(self, name: str, buffer: Tensor, assigned: Tensor) -> None:
        """Remember what a buffer must become. Raises ValueError if it has another shape or kind of number."""
        if assigned.shape != buffer.shape or assigned.is_floating_point() != buffer.is_floating_point():
            was, now = (f"{tuple(each.shape)} of {each.dtype}" for each in (buffer, assigned))
            raise ValueError(f"the buffer {name} is {was}; it cannot become {now}")
        self._assigned.append((buffer, self._from_before(assigned)))

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

    def _set_mode(self, training: bool) -> None:
        """`agent.train(training)`, which takes up to a third of a millisecond."""
        if self._sets_modes:
            self.agent.train(training)
        else:
            for values in self._modes:
                values["training"] = training

    @torch.no_grad()
    def track(self, target: str, online: str, tau: float) -> None:
        if (target, online) not in self._tracked:
            self._tracked[target, online] = [[*self._of(part, kind)] for kind in KINDS for part in (target, online)]
        averages, currents, copies, buffers = self._tracked[target, online]
        torch._foreach_lerp_(averages, currents, tau)
        if buffers:
            torch._foreach_copy_(copies, buffers)

    @abstractmethod
    def _of(self, part: str, kind: str) -> Iterable[Tensor]:
        """The tensors of a sub-module, each once: its "parameters", or its "buffers"."""

    @abstractmethod
    def _compute(self, part: str | None, function: Any, *args: Any) -> Any:
        """`function(*args)` for every seed, and in `_assigned` what it has assigned to buffers.

        At most the gradient of one part is needed.
        """


class EagerLearner(BaseLearner):
    """Trains one agent, operation by operation."""

    def __init__(self, agent: Agent[Any], device: torch.device, autocast: Autocast = nullcontext) -> None:
        super().__init__(agent, device, autocast, seeds=1)
        for parameter in agent.parameters():
            parameter.data = parameter.data.contiguous()  # the fused optimiser ignores strides
        specs = checked_optimisers(agent)
        self._optimisers = {part: Optimiser(parameters_of(part, agent), spec) for part, spec in specs.items()}
        self._buffers = [
            (module._buffers, name, buffer)
            for module in agent.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]

    def _of(self, part: str, kind: str) -> Iterable[Tensor]:
        module = self.agent.get_submodule(part)
        return module.parameters() if kind == "parameters" else module.buffers()

    def _compute(self, part: str | None, function: Any, *args: Any) -> Any:
        result = function(*args)
        self._assigned = []
        for buffers, name, buffer in self._buffers:
            assigned = buffers[name]
            if assigned is not None and assigned is not buffer:
                buffers[name] = buffer  # it keeps its place in memory, which a captured graph knows
                self._note_assignment(name, buffer, assigned)
        return result

    def _reject_assignments(self) -> None:
        for buffers, name, buffer in self._buffers:
            if buffers[name] is not buffer:
                buffers[name] = buffer
                raise ValueError(f"update() assigns the buffer {name}; change it in a loss")

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
        for name in sorted({"memory", "observe"} & {name for name, _ in self.agent.named_children()}):
            raise ValueError(f"a module of an agent cannot be called {name!r}, which is the name of a method")
        twin = EagerLearner(copy.deepcopy(self.agent), self.device, self._autocast)
        parameters = dict(twin.agent.named_parameters())
        batch = invented_batch(self.agent, self.device)
        before = _other_attributes(twin.agent)
        if twin.observes:
            twin.observe(invented_transition(batch))
        for _ in range(self.agent.period):
            twin.update(batch)
        buffers = [buffer.clone() for buffer in twin.agent.buffers()]
        for explore, obs in itertools.product((True, False), (batch.obs, batch.obs[:1])):
            memory = twin.first_memory(obs)
            chosen, after = twin.act_with_memory(obs, explore, memory)
            for name, tensor in (memory or {}).items():
                if after is None or len(tensor) != len(obs) or after[name].shape != tensor.shape:
                    raise ValueError(f"memory(obs) and act() must give {name} as [N, ...], always with the same shape")
            wanted = (len(obs), self.agent.act_dim)
            if chosen.shape != wanted:
                given, n = tuple(chosen.shape), len(obs)
                raise ValueError(f"act(obs, explore={explore}) gave shape {given} for {n} observations, not {wanted}")
            if not chosen.isfinite().all():
                raise FloatingPointError(f"act(obs, explore={explore}) gave an action that is not finite")
            if not (chosen.abs() <= 1.0).all():
                raise ValueError(f"act(obs, explore={explore}) gave an action outside [-1, 1]")
            for (name, buffer), old in zip(twin.agent.named_buffers(), buffers, strict=True):
                if twin._assigned or not torch.equal(buffer, old):
                    raise ValueError(f"act() changes the buffer {name}; only losses may change buffers")
        for name, parameter in twin.agent.named_parameters():
            if parameter is not parameters.get(name):
                raise ValueError(f"training replaces the parameter {name}; change it in place")
        after = _other_attributes(twin.agent)
        for name in [*before, *after]:
            if before.get(name) != after.get(name):
                raise ValueError(
                    f"training changes the attribute {name}, which a checkpoint does not contain; make it a persistent "
                    "buffer (register_buffer) and change it in a loss, or set it in __init__"
                )
        return list(twin.pop_means())


def invented_transition(batch: Batch) -> Transition:
    """A transition [...] of a batch [B, ...], or [S, ...] of one that is [S, B, ...]."""
    rows = batch.reward.ndim - 1
    obs, action, reward, next_obs, discount = (part.select(rows, 0) for part in batch[:5])
    return Transition(obs, action, reward, next_obs, discount, ended=1.0 - discount)


def checked_optimisers(agent: Agent[Any]) -> dict[str, Adam]:
    """The agent's `optimisers`. Raises TypeError or ValueError, naming the part, if the learner cannot use them."""
    found = dict(agent.optimisers())
    for part, spec in found.items():
        if not isinstance(spec, Adam):
            raise TypeError(f"optimisers()[{part!r}] must be an algos.agent.Adam, got {type(spec).__name__}")
        own = parameters_of(part, agent)
        inner = next((other for other in found if other.startswith(f"{part}.")), None)
        if inner:
            raise ValueError(f"optimisers() names {part!r} and {inner!r}, which is inside it")
        if not own:
            choices = _parts(name for name, each in agent.named_parameters() if each.requires_grad)
            raise ValueError(f"optimisers() names {part!r}, which has no trained parameter (choices: {choices})")
        for name in spec.rates:
            if not within(name, own):
                raise ValueError(
                    f"the rates of {part!r} name {name!r}, which is no part of it (choices: {_parts(own)})"
                )
    return found


def _own_copy(tensor: Tensor) -> Tensor:
    """A copy that shares no memory, within itself either: rows of it are overwritten."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _parts(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))


def parameters_of(part: str, agent: Agent[Any]) -> dict[str, nn.Parameter]:
    """The trained parameters of a part, each once, by their names within the part."""
    found = within(part, dict(agent.named_parameters(remove_duplicate=False)))
    names = {parameter: name for name, parameter in reversed(found.items()) if parameter.requires_grad}
    return {name: parameter for parameter, name in reversed(names.items())}


def within(part: str, values: Mapping[str, V]) -> dict[str, V]:
    """The values of a part, by their names within the part; of a parameter that is itself the part, by ""."""
    return {
        name.removeprefix(part).removeprefix("."): value
        for name, value in values.items()
        if f"{name}.".startswith(f"{part}.")
    }


def _other_attributes(agent: Agent[Any]) -> dict[str, Any]:
    """The values, in a form that can be compared, of all attributes and buffers that a state_dict does not have."""
    return {
        f"{prefix}.{name}".removeprefix("."): _comparable(value)
        for prefix, module in agent.named_modules()
        for name, value in (
            vars(module) | {name: module._buffers[name] for name in module._non_persistent_buffers_set}
        ).items()
        if name not in _OF_MODULES
    }


_OF_MODULES = frozenset(vars(nn.Module()))


class _Values(pickle.Pickler):
    """Does not look into modules and parameters, which may also be attributes in a list."""

    def persistent_id(self, value: Any) -> int | None:
        return id(value) if isinstance(value, (nn.Module, nn.Parameter)) else None


def _comparable(value: Any) -> Any:
    found = io.BytesIO()
    try:
        _Values(found).dump(value)
    except Exception:  # such as a function that is defined inside another
        return id(value)
    return found.getvalue()


def invented_batch(agent: Agent[Any], device: torch.device, n: int = 3) -> Batch:
    """n invented transitions [n, ...] to test an agent with."""
    obs = torch.randn(n, agent.obs_dim, device=device)
    action = torch.rand(n, agent.act_dim, device=device) * 2 - 1
    one = torch.ones(n, device=device)
    return Batch(obs, action, one, obs, one, one[0])
