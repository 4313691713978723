"""The number of kernels that an update and an action start."""

import pytest
import torch

import algos
from algos.agent import Batch
from flowbench.bench.launches import launches
from flowbench.learners import kernels
from flowbench.learners.learner import invented_batch
from flowbench.learners.stacked import StackedLearner

CPU = torch.device("cpu")
SEEDS = 5
# The most kernels of an update (mean over a period) and of an action, for five stacked seeds. On a small network each
# takes 3 to 6 microseconds of a GPU, whatever it computes: raise a number only for a good reason.
BUDGETS = {"flowrl": (271, 23), "sac": (129, 10), "td3": (63, 10)}


def test_views_and_allocations_start_no_kernel():
    x = torch.ones(2, 3)

    def computation():
        torch.empty(3)
        y = x.mT[1:].detach().unsqueeze(0)
        return (y + 1).sum() * y[0, 0, 0]

    assert launches(computation) == {"add": 1, "sum": 1, "mul": 1}


def learner(name: str) -> tuple[StackedLearner, Batch]:
    cls = algos.find(name).load()
    agents = [kernels.install(cls(223, 38, cls.Config(hidden=16, batch_size=8))) for _ in range(SEEDS)]
    batch = Batch(*(torch.stack([part] * SEEDS) for part in invented_batch(agents[0], CPU, 8)))
    return StackedLearner(agents, CPU, few_kernels=True), batch


@pytest.mark.parametrize("name", BUDGETS)
def test_stacked_seeds_stay_within_their_budget(name):
    stacked, batch = learner(name)
    period = stacked.agent.period
    for _ in range(period):
        stacked.update(batch)  # creates the optimisers' state
    counts = [launches(lambda: stacked.update(batch)).total() for _ in range(period)]
    action = launches(lambda: stacked.act(batch.obs[:, :1], explore=True)).total()
    assert sum(counts) / period <= BUDGETS[name][0]
    assert action <= BUDGETS[name][1]


@pytest.mark.parametrize("name", BUDGETS)
def test_the_count_does_not_depend_on_the_number_of_seeds(name):
    cls = algos.find(name).load()
    found = []
    for seeds in (2, 4):
        agents = [cls(5, 2, cls.Config(hidden=8, batch_size=4)) for _ in range(seeds)]
        batch = Batch(*(torch.stack([part] * seeds) for part in invented_batch(agents[0], CPU, 4)))
        stacked = StackedLearner(agents, CPU, few_kernels=True)
        stacked.update(batch)
        found.append(launches(lambda batch=batch, stacked=stacked: stacked.update(batch)))
    assert found[0] == found[1]
