"""The eager learner against steps worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from fakes import Toy, ToyConfig
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import algos
from algos.agent import Adam, Agent, Batch, Config
from flowbench.learners.learner import EagerLearner, invented_batch
from flowbench.learners.stacked import StackedLearner

CPU = torch.device("cpu")


class Scale(nn.Module):
    def __init__(self, value: float):
        super().__init__()
        self.value = nn.Parameter(torch.tensor([value]))


class Two(Agent[Config]):
    """Two parts of one number each; the loss of the first also depends on the second."""

    Config = Config
    period = 3
    clip: float | None = None

    def __init__(self):
        super().__init__(2, 1, Config())
        self.a, self.b = Scale(1.0), Scale(10.0)
        self.average = Scale(0.0).requires_grad_(False)
        self.phases = []

    def optimisers(self):
        return {"a": Adam(0.1, clip_norm=self.clip), "b": Adam(0.01)}

    def act(self, obs, explore):
        return (obs[:, :1] * self.a.value).clamp(-1.0, 1.0)

    def loss(self, factor):
        value = factor * self.a.value.sum() * self.b.value.sum()
        return value, {
            "product": value,
            "each": self.a.value * torch.ones(4),
            "a": self.a.value.sum(),
            "view": self.a.value[0],
        }

    def update(self, batch, learner, phase):
        self.phases.append(phase)
        learner.minimise("a", self.loss, 2.0)


def batch(n: int = 2) -> Batch:
    obs, one = torch.zeros(n, 2), torch.zeros(n)
    return Batch(obs, torch.zeros(n, 1), one, obs, one, torch.tensor(0.0))


def test_a_step_moves_the_named_part_alone_against_its_gradient() -> None:
    learner = EagerLearner(Two(), CPU)
    learner.minimise("a", learner.agent.loss, 2.0)
    # Adam's first step is the learning rate, whatever the gradient's size.
    assert learner.agent.a.value.item() == pytest.approx(1.0 - 0.1)
    assert learner.agent.b.value.item() == 10.0
    assert learner.agent.b.value.grad is None
    learner.minimise("b", learner.agent.loss, -2.0)
    assert learner.agent.a.value.item() == pytest.approx(0.9)
    assert learner.agent.b.value.item() == pytest.approx(10.0 + 0.01)


def test_steps_are_those_of_torch_adam() -> None:
    learner = EagerLearner(Two(), CPU)
    expected = nn.Parameter(torch.tensor([1.0]))
    adam = torch.optim.Adam([expected], lr=0.1)
    for factor in (2.0, -1.0, 0.5, 3.0):
        learner.minimise("a", learner.agent.loss, factor)
        adam.zero_grad()
        (factor * expected.sum() * 10.0).backward()
        adam.step()
        assert learner.agent.a.value.item() == pytest.approx(expected.item(), rel=1e-6)


def test_gradients_are_clipped_to_their_norm() -> None:
    agent = Two()
    agent.clip = 0.5
    learner = EagerLearner(agent, CPU)
    learner.minimise("a", agent.loss, 2.0)
    assert agent.a.value.grad is not None
    assert agent.a.value.grad.item() == pytest.approx(0.5, rel=1e-4)  # of 2 x 10


def test_diagnostics_come_back_detached_and_from_before_the_step() -> None:
    learner = EagerLearner(Two(), CPU)
    found = learner.minimise("a", learner.agent.loss, 2.0)
    assert found["product"].item() == 20.0
    assert found["a"].item() == 1.0
    assert found["view"].item() == 1.0
    assert not any(tensor.requires_grad for tensor in found.values())


def test_only_scalars_are_logged_each_with_its_mean() -> None:
    learner = EagerLearner(Two(), CPU)
    learner.minimise("a", learner.agent.loss, 2.0)
    learner.minimise("a", learner.agent.loss, 2.0)
    means = learner.pop_means()
    assert set(means) == {"a/loss", "a/product", "a/a", "a/view"}
    assert means["a/a"] == means["a/view"] == pytest.approx((1.0 + 0.9) / 2)
    assert means["a/loss"] == pytest.approx((20.0 + 18.0) / 2)
    assert learner.pop_means() == {}


def test_track_moves_the_target_by_tau() -> None:
    learner = EagerLearner(Two(), CPU)
    learner.track("average", "b", 0.25)
    assert learner.agent.average.value.item() == 2.5
    learner.track("average", "b", 0.25)
    assert learner.agent.average.value.item() == pytest.approx(0.75 * 2.5 + 2.5)
    learner.track("average", "b", 1.0)
    assert learner.agent.average.value.item() == 10.0
    assert learner.agent.b.value.item() == 10.0


def test_phases_go_round() -> None:
    learner = EagerLearner(Two(), CPU)
    for _ in range(7):
        learner.update(batch())
    assert learner.agent.phases == [0, 1, 2, 0, 1, 2, 0]
    assert learner.updates == 7


def test_act_keeps_no_graph() -> None:
    learner = EagerLearner(Two(), CPU)
    assert not learner.act(torch.ones(3, 2), explore=True).requires_grad


def test_a_rehearsal_names_what_is_logged_and_changes_nothing() -> None:
    learner = EagerLearner(Toy(2, 1, ToyConfig()), CPU)
    before = {name: value.clone() for name, value in learner.agent.state_dict().items()}
    assert learner.rehearse() == ["critic/loss", "critic/q", "actor/loss"]
    assert learner.updates == 0
    assert learner.pop_means() == {}
    assert all(torch.equal(value, before[name]) for name, value in learner.agent.state_dict().items())


def test_a_rehearsal_goes_through_every_phase() -> None:
    class Late(Two):
        def update(self, batch, learner, phase):
            learner.minimise("b" if phase == 2 else "a", self.loss, 1.0)

    assert set(EagerLearner(Late(), CPU).rehearse()) >= {"a/loss", "b/loss"}


def test_a_rehearsal_rejects_actions_of_another_shape() -> None:
    class Flat(Two):
        def act(self, obs, explore):
            return obs[:, 0]

    with pytest.raises(ValueError, match=r"explore=True\) gave shape \(3,\) for 3 observations, not \(3, 1\)"):
        EagerLearner(Flat(), CPU).rehearse()


def test_a_rehearsal_acts_as_in_evaluation_too() -> None:
    class Half(Two):
        def act(self, obs, explore):
            return obs[:, :1].clamp(-1, 1) * (1.0 if explore else 100.0) + (0.0 if explore else 2.0)

    with pytest.raises(ValueError, match=r"explore=False\) gave an action outside \[-1, 1\]"):
        EagerLearner(Half(), CPU).rehearse()


def test_a_rehearsal_reports_an_action_that_is_not_finite() -> None:
    class Nan(Two):
        def act(self, obs, explore):
            return obs[:, :1] * math.nan

    with pytest.raises(FloatingPointError, match=r"explore=True\) gave an action that is not finite"):
        EagerLearner(Nan(), CPU).rehearse()


def test_a_mean_over_something_that_is_not_a_number_is_not_a_number() -> None:
    learner = EagerLearner(Two(), CPU)
    learner.minimise("a", learner.agent.loss, float("nan"))
    assert math.isnan(learner.pop_means()["a/loss"])


def test_a_gradient_that_is_transposed_in_memory_is_applied_correctly() -> None:
    class Bilinear(Two):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 3, bias=False)

        def loss(self, x):
            return (self.a.weight.t().contiguous() * x).sum(), {}

    agent = Bilinear()
    before = agent.a.weight.detach().clone()
    x = torch.tensor([[1.0, -1.0, 1.0], [1.0, 1.0, -1.0]])
    EagerLearner(agent, CPU).minimise("a", agent.loss, x)
    torch.testing.assert_close(agent.a.weight.detach(), before - 0.1 * x.t())  # Adam's first step: the sign


# What torch.use_deterministic_algorithms lists of operations that may add up in another order each time on a GPU, or,
# of accumulating index_put and put, on several threads of a CPU. An index passes its gradient by index_put.
UNREPEATABLE = (
    "conv", "pool", "pad", "index_put", "put_", "scatter", "index_add", "index_copy", "cumsum",
    "histc", "bincount", "median", "nll_loss", "ctc", "embedding", "grid_sampler", "upsample",
    "repeat_interleave",
)  # fmt: skip


class Seen(TorchDispatchMode):
    """Keeps the names of all operations that are computed."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name().removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("name", algos.names())
def test_no_algorithm_uses_an_operation_that_is_not_deterministic(name: str, stack: bool) -> None:
    cls = algos.find(name).load()
    agent = cls(4, 2, cls.Config(hidden=8))
    one = invented_batch(agent, CPU)
    stacked = Batch(*(torch.stack([part, part]) for part in one))
    learner = StackedLearner([agent, agent], CPU) if stack else EagerLearner(agent, CPU)
    with Seen() as seen:
        for _ in range(agent.period):
            learner.update(stacked if stack else one)
        learner.act(stacked.obs if stack else one.obs, explore=True)
    assert any(name.startswith("_fused_adam_") for name in seen.names)  # it sees what the optimiser does, too
    assert not [name for name in seen.names if any(word in name for word in UNREPEATABLE)]
