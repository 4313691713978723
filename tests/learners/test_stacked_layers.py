"""The layers that compute all seeds at once."""

import copy

import pytest
import torch
from torch import nn

import algos
from algos.agent import Adam, Agent, Batch, Config
from algos.networks import TwinCritic, mlp
from flowbench.bench.launches import launches
from flowbench.learners import stacked_layers
from flowbench.learners.learner import EagerLearner
from flowbench.learners.stacked import StackedLearner, changed_by_few_kernels
from flowbench.learners.stacked_layers import JoinedTwins

CPU = torch.device("cpu")
SEEDS, ROWS, OBS, ACT = 3, 4, 5, 2


class Penalised(Agent[Config]):
    """Losses with transforms of their own: a gradient penalty, an ensemble, one twin alone."""

    Config = Config

    def __init__(self, obs_dim, act_dim, config):
        super().__init__(obs_dim, act_dim, config)
        self.critic = TwinCritic(self.network)
        self.actor = nn.Linear(obs_dim, act_dim)

    def network(self):
        return nn.Sequential(
            nn.Linear(self.obs_dim + self.act_dim, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 6, bias=False),
            nn.LayerNorm(6, bias=False), nn.Mish(), nn.Linear(6, 1),
        )  # fmt: skip

    def optimisers(self):
        return {"critic": Adam(1e-2), "actor": Adam(1e-2)}

    def act(self, obs, explore):
        return self.actor(obs).tanh()

    def critic_loss(self, batch):
        slope = torch.func.grad(lambda action: self.critic(batch.obs, action).sum())(batch.action)
        rows = torch.vmap(self.critic)(batch.obs, batch.action)
        first = self.critic.q1(torch.cat([batch.obs, batch.action], -1))
        q = self.critic(batch.obs, batch.action)
        return q.square().mean() + slope.square().mean() + rows.sum() + first.mean(), {}

    def actor_loss(self, batch):
        return -self.critic(batch.obs, self.act(batch.obs, True)).mean(), {}

    def update(self, batch, learner, phase):
        learner.minimise("critic", self.critic_loss, batch)
        learner.minimise("actor", self.actor_loss, batch)


class OneTwin(Penalised):
    """Trains one twin as a part of its own."""

    def optimisers(self):
        return {"critic.q1": Adam(1e-2)}

    def update(self, batch, learner, phase):
        learner.minimise("critic.q1", self.critic_loss, batch)


class Unequal(Penalised):
    """Twins of different sizes."""

    def __init__(self, *args):
        super().__init__(*args)
        self.critic.q2 = mlp(OBS + ACT, 3, 1)


class Unknown(Penalised):
    """Twins with a layer that would see the dimension of the twins."""

    def network(self):
        class Centred(nn.Module):
            def forward(self, x):
                return x - x.mean(0)

        return nn.Sequential(nn.Linear(self.obs_dim + self.act_dim, 6), Centred(), nn.Linear(6, 1))


class Scaled(Penalised):
    """Twins whose first layer is a class of its own."""

    def network(self):
        class Doubled(nn.Linear):
            def forward(self, x):
                return 2.0 * super().forward(x)

        return nn.Sequential(Doubled(self.obs_dim + self.act_dim, 6), nn.Linear(6, 1))


class Repeated(Penalised):
    """Twins that use one activation twice."""

    def network(self):
        tanh = nn.Tanh()
        return nn.Sequential(nn.Linear(self.obs_dim + self.act_dim, 6), tanh, nn.Linear(6, 1), tanh)


class Hooked(Penalised):
    """Twins with a hook."""

    def __init__(self, *args):
        super().__init__(*args)
        self.critic.q1.register_forward_hook(lambda module, inputs, output: 2.0 * output)


def batch() -> Batch:
    torch.manual_seed(1)
    obs, action, reward = torch.randn(SEEDS, ROWS, OBS), torch.randn(SEEDS, ROWS, ACT), torch.randn(SEEDS, ROWS)
    parts = (obs, action, reward, obs, torch.ones(SEEDS, ROWS), torch.zeros(SEEDS))
    return Batch(*(part.double() for part in parts))


def pair(algorithm) -> tuple[StackedLearner, list[EagerLearner]]:
    torch.manual_seed(0)
    agents = [algorithm(OBS, ACT, algorithm.Config()).double() for _ in range(SEEDS)]
    return StackedLearner(agents, CPU, few_kernels=True), [EagerLearner(copy.deepcopy(agent), CPU) for agent in agents]


@pytest.mark.parametrize(
    ("algorithm", "joined"),
    [
        (Penalised, True),
        (OneTwin, False),
        (Unequal, False),
        (Unknown, False),
        (Scaled, False),
        (Repeated, False),
        (Hooked, False),
    ],
)
def test_transforms_inside_a_loss_give_the_numbers_of_separate_seeds(algorithm, joined):
    stacked, separate = pair(algorithm)
    assert isinstance(stacked.agent.critic, JoinedTwins) == joined
    for _ in range(3):
        stacked.update(batch())
        for index, learner in enumerate(separate):
            learner.update(Batch(*(part[index] for part in batch())))
    for index, learner in enumerate(separate):
        for name, value in learner.agent.state_dict().items():
            torch.testing.assert_close(stacked.weights(index)[name], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", [name for name in algos.names() if name != "flashsac"])  # it has batch normalisation
def test_the_critics_of_every_algorithm_are_joined(name):
    cls = algos.find(name).load()
    agent = cls(OBS, ACT, cls.Config(hidden=8))
    joined = stacked_layers.install(agent)
    assert isinstance(agent.critic, JoinedTwins)
    assert isinstance(agent.target_critic, JoinedTwins)
    assert {name.split(".")[1] for name in joined} == {"q1", "q2"}


def test_a_checkpoint_has_the_names_and_numbers_of_separate_seeds():
    stacked, separate = pair(Penalised)
    stacked.update(batch())
    states = [stacked.state(index) for index in range(SEEDS)]
    for index, learner in enumerate(separate):
        learner.update(Batch(*(part[index] for part in batch())))
        own = learner.state()
        assert states[index].keys() == own.keys()
        for name, value in own.items():
            torch.testing.assert_close(states[index][name], value, rtol=1e-9, atol=1e-11)
        learner.restore(states[index])
    other, _ = pair(Penalised)
    other.update(batch())
    other.update(batch())
    kept = {name: tensor.data_ptr() for name, tensor in other._state.items()}
    other.restore([learner.state() for learner in separate])
    assert {name: tensor.data_ptr() for name, tensor in other._state.items()} == kept
    for index, state in enumerate(states):
        for name, value in other.state(index).items():
            assert torch.equal(value, state[name])


def test_a_layer_norm_between_products_copies_nothing():
    layers = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 1))

    class Normed(Penalised):
        def __init__(self, *args):
            super().__init__(*args)
            self.critic = copy.deepcopy(layers)

        def critic_loss(self, batch):
            return self.critic(batch.obs).square().mean(), {}

        def update(self, batch, learner, phase):
            learner.minimise("critic", self.critic_loss, batch)

    stacked, _ = pair(Normed)
    stacked.update(batch())
    counts = launches(lambda: stacked.update(batch()))
    assert counts["native_group_norm"] == counts["native_group_norm_backward"] == 1
    assert counts["baddbmm"] == 2
    assert not counts["clone"]
    assert not counts["copy_"]


def in_bfloat16(algorithm):
    torch.manual_seed(0)
    agents = [algorithm(OBS, ACT, algorithm.Config()) for _ in range(SEEDS)]
    return StackedLearner(agents, CPU, lambda: torch.autocast("cpu", torch.bfloat16), few_kernels=True)


class UsedOnce(Penalised):
    """A loss that uses every weight once: gradients of several uses are added up in the lower precision."""

    def critic_loss(self, batch):
        return self.critic(batch.obs, batch.action).square().mean(), {}


class FirstUsed(Penalised):
    def critic_loss(self, batch):
        return self.critic.q1(torch.cat([batch.obs, batch.action], -1)).square().mean(), {}


class FirstTrained(FirstUsed, OneTwin):
    """One twin is a part of its own, so the twins are not joined."""


@pytest.mark.parametrize("algorithm", [UsedOnce, FirstUsed, FirstTrained])
def test_casting_all_parameters_at_once_gives_the_same_numbers(algorithm, monkeypatch):
    single = Batch(*(part.float() for part in batch()))
    at_once = in_bfloat16(algorithm)
    for _ in range(3):
        at_once.update(single)
    counts = launches(lambda: at_once.update(single))
    monkeypatch.setattr(stacked_layers.CastParameters, "note", lambda self, part: None)
    one_by_one = in_bfloat16(algorithm)
    for _ in range(3):
        one_by_one.update(single)
    more = launches(lambda: one_by_one.update(single))
    assert counts["_to_copy"] < more["_to_copy"]
    for name, value in at_once.weights(0).items():
        assert torch.equal(value, one_by_one.weights(0)[name])
    assert torch.equal(at_once.act(single.obs, True), one_by_one.act(single.obs, True))


def test_the_weights_of_a_layer_are_cast_once_in_an_update():
    cls = algos.find("td3").load()
    agents = [cls(OBS, ACT, cls.Config(hidden=8, policy_delay=1)) for _ in range(SEEDS)]
    learner = StackedLearner(agents, CPU, lambda: torch.autocast("cpu", torch.bfloat16), few_kernels=True)
    single = Batch(*(part.float() for part in batch()))
    learner.update(single)
    # What is left: the input of the first layer of each network, its gradient, and the outputs.
    assert launches(lambda: learner.update(single))["_to_copy"] <= 12


class Decayed(Penalised):
    """A penalty on matrices alone. Biases of joined twins are matrices."""

    def critic_loss(self, batch):
        loss, _ = super().critic_loss(batch)
        return loss + sum(p.square().sum() for p in self.critic.parameters() if p.ndim > 1), {}

    def update(self, batch, learner, phase):
        learner.minimise("actor", self.actor_loss, batch)
        if phase == 1:
            learner.minimise("critic", self.critic_loss, batch)

    period = 2


class Noisy(Penalised):
    """Noise in the memory layout of a layer's result."""

    def actor_loss(self, batch):
        action = self.act(batch.obs, True)
        return -self.critic(batch.obs, action + torch.randn_like(action)).mean(), {}


class Counted(Penalised):
    """A buffer that depends on how many parameters the critic has."""

    def __init__(self, *args):
        super().__init__(*args)
        self.register_buffer("count", torch.zeros(()))

    def critic_loss(self, batch):
        self.count = torch.zeros_like(self.count) + len(list(self.critic.parameters()))
        return super().critic_loss(batch)


@pytest.mark.parametrize(
    ("algorithm", "name"), [(Decayed, "critic/loss"), (Noisy, "actor/loss"), (Counted, "count"), (Penalised, "")]
)
def test_a_value_that_the_layers_change_is_named(algorithm, name):
    assert changed_by_few_kernels(algorithm(OBS, ACT, Config())) == name


@pytest.mark.parametrize("name", algos.names())
def test_the_layers_change_no_value_of_the_algorithms(name):
    cls = algos.find(name).load()
    assert changed_by_few_kernels(cls(OBS, ACT, cls.Config(hidden=8))) == ""
