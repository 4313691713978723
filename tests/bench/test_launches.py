"""The number of kernels that an update and an action start."""

import pytest
import torch

import algos
from flowbench.bench.launches import launches, of_agents

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


@pytest.mark.parametrize("name", BUDGETS)
def test_stacked_seeds_stay_within_their_budget(name):
    cls = algos.find(name).load()
    config = cls.Config(hidden=16)
    update, action = of_agents(cls, 223, 38, config, SEEDS, stacked=True)
    assert update <= BUDGETS[name][0]
    assert action <= BUDGETS[name][1]
    # More seeds need no more kernels, unless they are trained one after the other.
    assert of_agents(cls, 5, 2, config, 2, stacked=True) == (update, action)
    alone, alone_action = of_agents(cls, 5, 2, config, 1, stacked=False)
    assert of_agents(cls, 5, 2, config, 3, stacked=False) == (3 * alone, 3 * alone_action)
