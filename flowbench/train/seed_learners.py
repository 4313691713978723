"""What the training loop sees of learning: the agents of a group's seeds, updated and asked for actions together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from algos.agent import Agent, Batch, Config
from flowbench.common.tensors import State, flat, on_cpu, under
from flowbench.train.cuda_graphs import Graphed, place
from flowbench.train.learner import CannotStack, EagerLearner, StackedLearner
from flowbench.train.placement import Places
from flowbench.train.rng import TorchStream, stream_seed

# Multiplications of a layer up to which a CPU gains from several seeds at once. Above, the products take nearly all the
# time, and the seeds' activations push each other out of the cache: one after the other is then 5 to 17 % faster.
STACKED_ON_CPU = 2**23


class GroupLearner(Protocol):
    """The agents of S seeds."""

    kind: str  # "separate" or "stacked", for run.json
    logged: list[str]  # the names that `means` will have
    note: str  # why seeds that should be stacked are not, empty where there is nothing to say
    parameters: int  # trained parameters of one seed's agent
    updates: int

    def update(self, batch: Batch) -> None:
        """One update of every seed; the batch's tensors are [S, B, ...], its progress [S]."""
        ...

    def act(self, obs: Tensor) -> Tensor:
        """Actions [S, act_dim] to explore with, for obs [S, obs_dim]."""
        ...

    def means(self, slot: int) -> dict[str, float]:
        """The means of what a seed's losses logged since they were cleared."""
        ...

    def clear_means(self, slot: int) -> None:
        """Begin a seed's means anew."""
        ...

    def weights(self, slot: int) -> dict[str, Tensor]:
        """A copy of a seed's state_dict, on the CPU."""
        ...

    def state(self, slot: int) -> State:
        """Everything of a seed that learning goes on from."""
        ...

    def restore(self, states: Sequence[State]) -> None:
        """Take up what `state` gave of every seed, before the first update."""
        ...


class Separate:
    """Seeds updated one after the other, each with a stream of noise of its own: the same numbers in any group."""

    kind = "separate"

    def __init__(
        self, agents: Sequence[Agent[Any]], streams: Sequence[TorchStream], places: Places, note: str = ""
    ) -> None:
        self.note = note
        self.updates = 0
        self.parameters = _trained(agents[0])
        self._streams = list(streams)
        self._learners = [EagerLearner(agent, places.device, places.autocast) for agent in agents]
        with TorchStream(0, places.device):
            self.logged = self._learners[0].rehearse()
        self._run = [Graphed(learner) if places.device.type == "cuda" else learner for learner in self._learners]

    def update(self, batch: Batch) -> None:
        for slot, (learner, stream) in enumerate(zip(self._run, self._streams, strict=True)):
            with stream:
                learner.update(Batch(*(part[slot] for part in batch)))
        self.updates += 1

    def act(self, obs: Tensor) -> Tensor:
        chosen = []
        for slot, (learner, stream) in enumerate(zip(self._run, self._streams, strict=True)):
            with stream:
                chosen.append(learner.act(obs[slot : slot + 1], explore=True))
        return torch.cat(chosen)

    def means(self, slot: int) -> dict[str, float]:
        return self._learners[slot].means()

    def clear_means(self, slot: int) -> None:
        self._learners[slot].logged.clear()

    def weights(self, slot: int) -> dict[str, Tensor]:
        return _on_cpu(self._learners[slot].agent.state_dict())

    def state(self, slot: int) -> State:
        return self._learners[slot].state() | flat({"noise": self._streams[slot].state()})

    def restore(self, states: Sequence[State]) -> None:
        for learner, stream, state in zip(self._learners, self._streams, states, strict=True):
            learner.restore(state)
            stream.restore(under("noise", state))
        self.updates = self._learners[0].updates


class Stacked:
    """Seeds updated as one batched computation. Their noise comes from one stream, which the group's seeds decide."""

    kind = "stacked"
    note = ""

    def __init__(self, agents: Sequence[Agent[Any]], seeds: Sequence[int], places: Places) -> None:
        """Raises CannotStack; an agent that fails by itself raises what it raises."""
        self.updates = 0
        self.parameters = _trained(agents[0])
        device = places.device
        self._stream = TorchStream(stream_seed(seeds[0], "torch-group", *seeds[1:]), device)
        with TorchStream(0, device):
            self.logged = EagerLearner(agents[0], device, places.autocast).rehearse()
            try:
                self._learner = StackedLearner(agents, device, places.autocast)
                self._learner.rehearse()
            except CannotStack:
                raise
            except Exception as error:
                raise CannotStack(f"{place(error, agents[0])}: {' '.join(str(error).split())}") from error
        self._run = Graphed(self._learner) if device.type == "cuda" else self._learner

    def update(self, batch: Batch) -> None:
        with self._stream:
            self._run.update(batch)
        self.updates += 1

    def act(self, obs: Tensor) -> Tensor:
        with self._stream:
            return self._run.act(obs.unsqueeze(1), explore=True).squeeze(1)

    def means(self, slot: int) -> dict[str, float]:
        return self._learner.logged.read(slot)

    def clear_means(self, slot: int) -> None:
        self._learner.logged.clear(slot)

    def weights(self, slot: int) -> dict[str, Tensor]:
        return _on_cpu(self._learner.weights(slot))

    def state(self, slot: int) -> State:
        return self._learner.state(slot) | flat({"noise": self._stream.state()})

    def restore(self, states: Sequence[State]) -> None:
        self._learner.restore(states)
        self._stream.restore(under("noise", states[0]))
        self.updates = self._learner.updates


def build(
    algorithm: type[Agent[Any]],
    obs_dim: int,
    act_dim: int,
    config: Config,
    seeds: Sequence[int],
    places: Places,
) -> GroupLearner:
    """The agents of some seeds, each with the initial weights that its seed gives it.

    They are stacked when that is asked for and gains something, which follows from device and sizes alone, and where
    the algorithm can be; `note` says why it cannot.
    """
    streams = [TorchStream(stream_seed(seed, "torch"), places.device) for seed in seeds]
    agents = []
    for stream in streams:
        with stream:
            agents.append(algorithm(obs_dim, act_dim, config))
    if places.stack and (places.device.type == "cuda" or _largest_product(agents[0]) < STACKED_ON_CPU):
        try:
            return Stacked(agents, seeds, places)
        except CannotStack as error:
            note = f"seeds are trained one after the other, because the algorithm cannot be stacked: {error}"
            return Separate(agents, streams, places, note)
    return Separate(agents, streams, places)


def _largest_product(agent: Agent[Any]) -> int:
    """Multiplications of the agent's largest layer on a batch."""
    largest: int = max((parameter.numel() for parameter in agent.parameters()), default=0) * agent.config.batch_size
    return largest


def _trained(agent: Agent[Any]) -> int:
    return sum(p.numel() for p in agent.parameters() if p.requires_grad)


def _on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: on_cpu(tensor) for name, tensor in state.items()}
