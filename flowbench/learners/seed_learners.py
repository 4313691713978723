"""The agents of a group of seeds, updated together: the interface between the training loop and the learners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from algos.agent import Agent, Batch, Config, Transition
from flowbench.common.rng import TorchStream, stream_seed
from flowbench.common.tensors import State, flat, on_cpu, under
from flowbench.learners import kernels
from flowbench.learners.cuda_graphs import Graphed, source_line
from flowbench.learners.explorer import Explorer
from flowbench.learners.learner import EagerLearner
from flowbench.learners.placement import Placement
from flowbench.learners.stacked import CannotStack, StackedLearner, changed_by_few_kernels

# Multiplications in a layer above which stacking is slower on a CPU. There the products take nearly all the time, and
# the seeds' activations evict each other from the cache: one seed after another is 5 to 17 % faster.
STACKED_ON_CPU = 2**23


class GroupLearner(Protocol):
    """The agents of S seeds."""

    kind: str  # "separate" or "stacked", for run.json
    logged: list[str]  # the names in `means`
    note: str  # why seeds are not stacked although they should be, or are slower than they could be; or empty
    parameters: int  # trained parameters of one seed's agent
    period: int  # updates after which the phases of the algorithm repeat
    updates: int
    first_updates: int  # additional updates in the first step after the random ones
    observes: bool  # whether the agents have an `observe`

    def update(self, batch: Batch) -> None:
        """Update every seed once. The tensors of the batch are [S, B, ...], its progress is [S]."""
        ...

    def act(self, obs: Tensor) -> Tensor:
        """Exploring actions [S, act_dim] for obs [S, obs_dim]."""
        ...

    def begin_episode(self, index: int) -> None:
        """The next observation of this seed is the first of an episode: the policy's memory is reset."""
        ...

    def observe(self, transition: Transition) -> None:
        """Call `observe` of every agent with its transition, [S, ...]. The agents' buffers may change."""
        ...

    def means(self, index: int) -> dict[str, float]:
        """The means of what a seed's losses have logged since the last `clear_means`."""
        ...

    def clear_means(self, index: int) -> None:
        """Reset the means of a seed."""
        ...

    def weights(self, index: int) -> dict[str, Tensor]:
        """A copy of a seed's state_dict, on the CPU."""
        ...

    def state(self, index: int) -> State:
        """Everything that is needed to resume the learning of a seed."""
        ...

    def restore(self, states: Sequence[State]) -> None:
        """Continue from the `state` of every seed."""
        ...


class Separate:
    """Seeds that are updated one after another, each with its own noise stream: the same numbers in any group."""

    kind = "separate"

    def __init__(
        self, agents: Sequence[Agent[Any]], streams: Sequence[TorchStream], placement: Placement, note: str = ""
    ) -> None:
        self.note = note
        self.updates = 0
        self.parameters = _trained(agents[0])
        self.period = agents[0].period
        self.first_updates = agents[0].first_updates
        self._streams = list(streams)
        self._learners = [EagerLearner(agent, placement.device, placement.autocast) for agent in agents]
        with TorchStream(0, placement.device):
            self.logged = self._learners[0].rehearse()
        self._run = [Graphed(learner) if placement.uses_graphs else learner for learner in self._learners]
        self.observes = self._learners[0].observes
        self._explorers = [Explorer(*each) for each in zip(self._learners, self._run, strict=True)]

    def update(self, batch: Batch) -> None:
        for index, (learner, stream) in enumerate(zip(self._run, self._streams, strict=True)):
            with stream:
                learner.update(Batch(*(part[index] for part in batch)))
        self.updates += 1

    def act(self, obs: Tensor) -> Tensor:
        chosen = []
        for index, (explorer, stream) in enumerate(zip(self._explorers, self._streams, strict=True)):
            with stream:
                chosen.append(explorer.act(obs[index : index + 1]))
        return torch.cat(chosen)

    def begin_episode(self, index: int) -> None:
        self._explorers[index].begin(0)

    def observe(self, transition: Transition) -> None:
        for index, (learner, stream) in enumerate(zip(self._run, self._streams, strict=True)):
            with stream:
                learner.observe(Transition(*(part[index] for part in transition)))

    def means(self, index: int) -> dict[str, float]:
        return self._learners[index].means()

    def clear_means(self, index: int) -> None:
        self._learners[index].logged.clear()

    def weights(self, index: int) -> dict[str, Tensor]:
        return _on_cpu(self._learners[index].agent.state_dict())

    def state(self, index: int) -> State:
        own = {"noise": self._streams[index].state(), "memory": self._explorers[index].state(0)}
        return self._learners[index].state() | flat(own)

    def restore(self, states: Sequence[State]) -> None:
        for index, state in enumerate(states):
            self._learners[index].restore(state)
            self._streams[index].restore(under("noise", state))
            self._explorers[index].restore([under("memory", state)])
        self.updates = self._learners[0].updates


class Stacked:
    """Seeds that are updated as one batched computation. They share a noise stream, derived from all their seeds."""

    kind = "stacked"
    note = ""

    def __init__(self, agents: Sequence[Agent[Any]], seeds: Sequence[int], placement: Placement) -> None:
        """Raises CannotStack. An agent that fails without stacking raises its own error."""
        self.updates = 0
        self.parameters = _trained(agents[0])
        self.period = agents[0].period
        self.first_updates = agents[0].first_updates
        device = placement.device
        self._stream = TorchStream(stream_seed(seeds[0], "torch-group", *seeds[1:]), device)
        with TorchStream(0, device):
            self.logged = EagerLearner(agents[0], device, placement.autocast).rehearse()
            try:
                self.note = self._plain_layers(agents[0]) if device.type == "cuda" else ""
                few_kernels = False if self.note else None
                self._learner = StackedLearner(agents, device, placement.autocast, few_kernels)
                self._learner.rehearse()
            except CannotStack:
                raise
            except Exception as error:
                raise CannotStack(f"{source_line(error, agents[0])}: {' '.join(str(error).split())}") from error
        self._run = Graphed(self._learner) if placement.uses_graphs else self._learner
        self.observes = self._learner.observes
        self._explorer = Explorer(self._learner, self._run, len(agents))

    @staticmethod
    def _plain_layers(agent: Agent[Any]) -> str:
        """Why the layers with few kernels cannot be used; empty if they can."""
        try:
            name = changed_by_few_kernels(agent)
        except Exception as error:
            reason = (
                f"cannot be checked in double precision: {source_line(error, agent)}: {' '.join(str(error).split())}"
            )
        else:
            reason = name and f"change {name}"
        return reason and f"updates need more GPU kernels, because the layers with few kernels {reason}"

    def update(self, batch: Batch) -> None:
        with self._stream:
            self._run.update(batch)
        self.updates += 1

    def act(self, obs: Tensor) -> Tensor:
        with self._stream:
            return self._explorer.act(obs.unsqueeze(1)).squeeze(1)

    def begin_episode(self, index: int) -> None:
        self._explorer.begin(index)

    def observe(self, transition: Transition) -> None:
        with self._stream:
            self._run.observe(transition)

    def means(self, index: int) -> dict[str, float]:
        return self._learner.logged.read(index)

    def clear_means(self, index: int) -> None:
        self._learner.logged.clear(index)

    def weights(self, index: int) -> dict[str, Tensor]:
        return _on_cpu(self._learner.weights(index))

    def state(self, index: int) -> State:
        own = {"noise": self._stream.state(), "memory": self._explorer.state(index)}
        return self._learner.state(index) | flat(own)

    def restore(self, states: Sequence[State]) -> None:
        self._learner.restore(states)
        self._stream.restore(under("noise", states[0]))
        self._explorer.restore([under("memory", state) for state in states])
        self.updates = self._learner.updates


def build(
    algorithm: type[Agent[Any]],
    obs_dim: int,
    act_dim: int,
    config: Config,
    seeds: Sequence[int],
    placement: Placement,
) -> GroupLearner:
    """The agents of these seeds. The seed alone decides the initial weights of its agent.

    They are stacked if the placement asks for it, if that is faster for this device and these sizes, and if the
    algorithm allows it. If it does not, `note` gives the reason.
    """
    streams = [TorchStream(stream_seed(seed, "torch"), placement.device) for seed in seeds]
    agents = []
    for stream in streams:
        with stream:
            agents.append(kernels.install(algorithm(obs_dim, act_dim, config)))
    if placement.stack and (placement.device.type == "cuda" or _largest_product(agents[0]) < STACKED_ON_CPU):
        try:
            return Stacked(agents, seeds, placement)
        except CannotStack as error:
            note = f"seeds are trained one after another, because the algorithm cannot be stacked: {error}"
            return Separate(agents, streams, placement, note)
    return Separate(agents, streams, placement)


def _largest_product(agent: Agent[Any]) -> int:
    """Multiplications in the agent's largest layer for one batch."""
    largest: int = max((parameter.numel() for parameter in agent.parameters()), default=0) * agent.config.batch_size
    return largest


def _trained(agent: Agent[Any]) -> int:
    return sum(p.numel() for p in agent.parameters() if p.requires_grad)


def _on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: on_cpu(tensor) for name, tensor in state.items()}
