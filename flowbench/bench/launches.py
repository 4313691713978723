"""Counts the operations of a computation that start a kernel on a GPU.

A small kernel takes a GPU 3 to 6 microseconds however little it computes, so this number limits the speed of small
networks. It is exact and repeatable, and it can be counted without a GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from algos.agent import Agent, Batch, Config
from flowbench.learners.learner import EagerLearner, invented_batch
from flowbench.learners.stacked import StackedLearner

# Operations that only allocate memory, create a view, or mark a range for the profiler.
WITHOUT_KERNEL = {
    "alias", "detach", "empty", "empty_like", "empty_strided", "lift_fresh", "new_empty", "new_empty_strided",
    "_unsafe_view", "_record_function_enter_new", "_record_function_exit",
}  # fmt: skip


class _Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        if not func.is_view and name not in WITHOUT_KERNEL:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def launches(computation: Callable[[], object]) -> Counter[str]:
    """How often each operation of torch that starts a kernel is called, by its name."""
    mode = _Launches()
    with mode:
        computation()
    return mode.counts


def of_agents(
    algorithm: type[Agent[Any]], obs_dim: int, act_dim: int, config: Config, seeds: int, stacked: bool
) -> tuple[float, int]:
    """The kernels of an update, as a mean over a period, and of an action, for all seeds together."""
    cpu = torch.device("cpu")
    agents = [algorithm(obs_dim, act_dim, config) for _ in range(seeds if stacked else 1)]
    batch = invented_batch(agents[0], cpu)
    learner: EagerLearner | StackedLearner = EagerLearner(agents[0], cpu)
    if stacked:
        learner = StackedLearner(agents, cpu, few_kernels=True)
        batch = Batch(*(torch.stack([part] * seeds) for part in batch))
    period = agents[0].period
    for _ in range(period):
        learner.update(batch)  # the first updates also create the state of the optimisers
    updates = sum(launches(lambda: learner.update(batch)).total() for _ in range(period))
    obs = batch.obs[..., :1, :]
    memory = learner.first_memory(obs)
    action = launches(lambda: learner.act_with_memory(obs, True, memory)).total()
    times = 1 if stacked else seeds
    return times * updates / period, times * action
