"""What an agent may keep besides parameters, and how its optimisers may step: alone, stacked, captured, resumed."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fake_cuda import DEVICE, FakeCuda
from fakes import Toy, ToyConfig, Walk
from torch import Tensor, nn
from training import interrupted, rows

from algos.agent import Adam, Agent, Batch
from algos.networks import TwinCritic, evaluation_mode, frozen_copy, mlp
from flowbench.learners.explorer import Explorer
from flowbench.learners.learner import EagerLearner
from flowbench.learners.placement import Placement
from flowbench.learners.stacked import StackedLearner
from flowbench.train.build import build_trainer
from flowbench.train.evaluation import Episodes

CPU = torch.device("cpu")


class Normed(Toy):
    """Batch normalisation in actor, critic and target, dropout in the critic, a running mean of the rewards."""

    def __init__(self, obs_dim, act_dim, config):
        super().__init__(obs_dim, act_dim, config)
        self.actor = nn.Sequential(nn.BatchNorm1d(obs_dim), nn.Linear(obs_dim, act_dim))
        self.critic = nn.Sequential(
            nn.Linear(obs_dim + act_dim, 4, bias=False), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1)
        )
        self.target = frozen_copy(self.critic)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def act(self, obs, explore):
        action = torch.tanh(self.actor(obs))
        return (action + 0.1 * torch.randn_like(obs[:, :1])).clamp(-1, 1) if explore else action

    def critic_loss(self, batch):
        self.mean = torch.lerp(self.mean, batch.reward.mean(), 0.1)
        self.updates += 1
        with torch.no_grad(), evaluation_mode(self.target):
            target = self.target(torch.cat([batch.next_obs, torch.tanh(self.actor(batch.next_obs))], -1)).squeeze(-1)
        q = self.critic(torch.cat([batch.obs, batch.action], -1)).squeeze(-1)
        return (q - batch.reward + self.mean - 0.5 * target).square().mean(), {"mean": self.mean}

    def actor_loss(self, batch):
        with evaluation_mode(self.critic):
            return -self.critic(torch.cat([batch.obs, torch.tanh(self.actor(batch.obs))], -1)).mean(), {}

    def update(self, batch, learner, phase):
        super().update(batch, learner, phase)
        learner.track("target", "critic", 0.1)


class Stepped(Toy):
    """Every option of an optimiser."""

    def __init__(self, obs_dim, act_dim, config):
        super().__init__(obs_dim, act_dim, config)
        self.twins = TwinCritic(lambda: mlp(obs_dim + act_dim, 4, 1))
        self.scale = nn.Parameter(torch.ones(()))

    def optimisers(self):
        return {
            "critic": Adam(0.01, clip_value=0.1, betas=(0.5, 0.9), weight_decay=0.1),
            "actor": Adam(0.02, schedule=lambda progress: 0.5 + 0.5 * torch.cos(math.pi * progress)),
            "twins": Adam(0.01, clip_norm=0.5, rates={"q1": 0.1, "q1.2": 2.0}, project=unit_rows),
            "scale": Adam(0.05),
        }

    def twins_loss(self, batch):
        return self.scale * (self.twins(batch.obs, batch.action) - batch.reward).square().mean(), {}

    def update(self, batch, learner, phase):
        super().update(batch, learner, phase)
        learner.minimise("twins", self.twins_loss, batch)
        learner.minimise("scale", self.twins_loss, batch)


class Joined(Stepped):
    """Twins that the layers with few kernels store together."""

    def optimisers(self):
        return {**super().optimisers(), "twins": Adam(0.01, clip_norm=0.5, betas=(0.5, 0.9))}


class TwoPlaces(Normed):
    """Modules that have two names."""

    def __init__(self, obs_dim, act_dim, config):
        super().__init__(obs_dim, act_dim, config)
        self.networks = nn.ModuleList([self.critic, self.target])
        self.listed = [self.actor, self.critic]
        self.tied = nn.Linear(4, 1)
        self.tied.weight = self.critic[3].weight

    def critic_loss(self, batch):
        loss, diagnostics = super().critic_loss(batch)
        return loss + self.tied(batch.obs.new_ones(4)).square().sum(), diagnostics

    def optimisers(self):
        return {"networks.0": Adam(0.01), "actor": Adam(0.01)}

    def update(self, batch, learner, phase):
        learner.minimise("networks.0", self.critic_loss, batch)
        learner.minimise("actor", self.actor_loss, batch)
        learner.track("networks.1", "critic", 0.1)


class Recurrent(Toy):
    """A policy with a hidden state, and exploration noise that is held for three steps."""

    def __init__(self, obs_dim, act_dim, config):
        super().__init__(obs_dim, act_dim, config)
        self.cell = nn.Linear(obs_dim + 3, 3)
        self.actor = nn.Linear(obs_dim, act_dim)
        self.head = nn.Linear(3, act_dim)

    def memory(self, obs):
        return {"hidden": obs.new_zeros(len(obs), 3), "noise": 0.0 * obs[:, :1], "age": obs.new_zeros(len(obs), 1)}

    def act(self, obs, explore, memory):
        hidden = torch.tanh(self.cell(torch.cat([obs, memory["hidden"]], -1)))
        noise = torch.where(memory["age"] % 3 == 0, torch.randn_like(obs[:, :1]), memory["noise"])
        action = torch.tanh(self.actor(obs) + self.head(hidden) + (0.3 * noise if explore else 0.0))
        return action, {"hidden": hidden, "noise": noise, "age": memory["age"] + 1}


class Scales(Toy):
    """Divides rewards by the running deviation of the discounted return, which it observes; updates ahead."""

    first_updates = 5

    def __init__(self, obs_dim, act_dim, config):
        super().__init__(obs_dim, act_dim, config)
        for name in ("ret", "count", "mean", "squares"):
            self.register_buffer(name, torch.zeros(()))

    def observe(self, transition):
        self.ret = 0.9 * self.ret + transition.reward
        self.count += 1
        apart = self.ret - self.mean
        self.mean = self.mean + apart / self.count
        self.squares = self.squares + apart * (self.ret - self.mean)
        self.ret = self.ret * (1.0 - transition.ended)

    def critic_loss(self, batch):
        scale = (self.squares / self.count.clamp(min=1.0)).sqrt() + 1e-3
        return super().critic_loss(batch._replace(reward=batch.reward / scale))


class Shifts(Toy):
    """Buffers that are assigned each other, shared by two modules, and read while the parameters move."""

    def __init__(self, obs_dim, act_dim, config):
        super().__init__(obs_dim, act_dim, config)
        for name in ("now", "before", "bias"):
            self.register_buffer(name, torch.zeros(1))
        self.holder = nn.Module()
        self.holder.register_buffer("shared", self.now)

    def critic_loss(self, batch):
        loss, diagnostics = super().critic_loss(batch)
        self.before, self.holder.shared = self.now, self.now + batch.reward.mean()
        self.bias = self.critic.bias.detach()
        return loss, diagnostics


class SharedEncoder(Toy):
    """A tracked network that contains a module whose first name is elsewhere."""

    def __init__(self, obs_dim, act_dim, config):
        super().__init__(obs_dim, act_dim, config)
        self.encoder = nn.Linear(4, 4)
        self.net = nn.Sequential(nn.Linear(obs_dim + act_dim, 4), self.encoder, nn.Linear(4, 4))
        self.target = frozen_copy(self.net)

    def net_loss(self, batch):
        return self.net(torch.cat([batch.obs, batch.action], -1)).square().mean(), {}

    def optimisers(self):
        return {**super().optimisers(), "net": Adam(0.01)}

    def update(self, batch, learner, phase):
        super().update(batch, learner, phase)
        learner.minimise("net", self.net_loss, batch)
        learner.track("target", "net", 0.5)


class Keeps(Toy):
    """A memory of the last observation, of a learned start, and of a constant; batch normalisation in `memory`."""

    def __init__(self, obs_dim, act_dim, config):
        super().__init__(obs_dim, act_dim, config)
        self.start = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm1d(obs_dim)

    def optimisers(self):
        return {**super().optimisers(), "start": Adam(0.01)}

    def start_loss(self, batch):
        return (self.start - batch.reward.mean()).square().sum() + self.norm(batch.obs).sum() * 0.0, {}

    def update(self, batch, learner, phase):
        super().update(batch, learner, phase)
        learner.minimise("start", self.start_loss, batch)

    def memory(self, obs):
        return {
            "obs": self.norm(obs),
            "start": self.start.expand(len(obs), 1),
            "flag": torch.zeros(len(obs), 1).to(obs),
        }

    def act(self, obs, explore, memory):
        action = torch.tanh(self.actor(obs - memory["obs"]) + memory["start"] + memory["flag"])
        return action, {"obs": obs, "start": memory["start"], "flag": torch.zeros_like(memory["flag"])}


def unit_rows(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.copy_(F.normalize(layer.weight, dim=-1))


KINDS = [Normed, Stepped, Joined, TwoPlaces, Recurrent, Scales, Shifts, SharedEncoder, Keeps]


def batches(count: int, seeds: int = 2, size: int = 8) -> list[Batch]:
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(seeds, size, *shape, generator=generator)

    return [
        Batch(
            normal(2),
            torch.tanh(normal(1)),
            normal(),
            normal(2),
            torch.ones(seeds, size),
            torch.full((seeds,), k / count),
        )
        for k in range(count)
    ]


def without_dropout(algorithm: type[Agent]) -> list[Agent]:
    """Two agents that draw no noise in updates."""
    torch.manual_seed(3)
    agents = [algorithm(2, 1, ToyConfig()) for _ in range(2)]
    for module in [module for agent in agents for module in agent.modules() if isinstance(module, nn.Dropout)]:
        module.p = 0.0
    return agents


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacked seeds draw other noise than separate ones."""
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)


@pytest.mark.parametrize("few_kernels", [False, True])
@pytest.mark.parametrize("algorithm", KINDS)
def test_stacked_seeds_have_the_parameters_and_buffers_of_separate_ones(algorithm, few_kernels: bool, quiet) -> None:
    given = batches(20)
    alone = [EagerLearner(agent, CPU) for agent in without_dropout(algorithm)]
    stacked = StackedLearner(without_dropout(algorithm), CPU, few_kernels=few_kernels)
    stacked.rehearse()
    for batch in given:
        stacked.update(batch)
        for index, learner in enumerate(alone):
            learner.update(Batch(*(part[index] for part in batch)))
    for index, learner in enumerate(alone):
        expected, found = learner.agent.state_dict(), stacked.weights(index)
        assert list(found) == list(expected)
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
        obs = given[0].obs
        torch.testing.assert_close(stacked.act(obs, False)[index], learner.act(obs[index], False), rtol=1e-3, atol=1e-5)


def trainer(algorithm, device=CPU, stack=False):
    placement = Placement(device, stack=stack)
    made = build_trainer(
        partial(Walk, 7), algorithm, ToyConfig(), (0, 1), steps=20, evaluate_every=5, evaluation_episodes=1,
        save_every=4, placement=placement,
    )  # fmt: skip
    assert (made.kind == "stacked") == stack, made.note
    return made


@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("algorithm", KINDS)
def test_a_resumed_run_and_one_by_graphs_give_the_same_rows(algorithm, stack: bool, cuda: FakeCuda) -> None:
    whole = rows(trainer(algorithm, stack=stack).run())
    assert interrupted(partial(trainer, algorithm, stack=stack), 12) == whole
    assert interrupted(partial(trainer, algorithm, DEVICE, stack), 12) == rows(trainer(algorithm, DEVICE, stack).run())
    assert cuda.counts["replays"] > 5


@pytest.mark.parametrize(("algorithm", "joined"), [(Stepped, False), (Joined, True)])
def test_twins_with_a_rate_each_are_not_stored_together(algorithm, joined: bool) -> None:
    learner = StackedLearner(without_dropout(algorithm), CPU, few_kernels=True)
    assert any("twins.both" in name for name in learner._state) == joined


# Modes and buffers


def test_losses_are_in_training_mode_and_actions_in_evaluation_mode() -> None:
    torch.manual_seed(0)
    learner = EagerLearner(Normed(2, 1, ToyConfig()), CPU)
    for batch in batches(3, seeds=1):
        learner.update(Batch(*(part[0] for part in batch)))
    norm = learner.agent.actor[0]
    before, obs = norm.running_mean.clone(), torch.randn(1, 2)
    assert before.any()
    assert torch.equal(learner.act(obs, False), learner.act(obs, False))
    assert torch.equal(norm.running_mean, before)
    assert learner.agent.critic[2].training is False
    learner.update(Batch(*(part[0] for part in batch)))
    assert not torch.equal(norm.running_mean, before)
    assert learner.agent.critic[2].training


class KeepsMode(nn.Linear):
    """Stays in evaluation mode, as a frozen encoder may."""

    def train(self, mode: bool = True):
        return super().train(False)


def test_a_module_may_decide_about_its_mode() -> None:
    agent = Toy(2, 1, ToyConfig())
    agent.actor = KeepsMode(2, 1)
    learner = EagerLearner(agent, CPU)
    (batch,) = batches(1, seeds=1)
    learner.update(Batch(*(part[0] for part in batch)))
    assert agent.critic.training
    assert not agent.actor.training


@pytest.mark.parametrize("stack", [False, True])
def test_a_buffer_that_a_loss_assigns_is_counted_and_keeps_its_place(stack: bool) -> None:
    agents = without_dropout(Normed)
    learner = StackedLearner(agents, CPU) if stack else EagerLearner(agents[0], CPU)
    own = learner._state["mean"] if stack else agents[0].mean
    address, expected = own.data_ptr(), torch.zeros(2 if stack else 1)
    for batch in batches(200):
        learner.update(batch if stack else Batch(*(part[0] for part in batch)))
        expected += 0.1 * (batch.reward.mean(1)[: len(expected)] - expected)
    weights = learner.weights(1) if stack else agents[0].state_dict()
    assert weights["updates"] == 200
    assert weights["mean"].item() == pytest.approx(expected[-1].item(), rel=1e-4)
    assert (learner._state["mean"] if stack else agents[0].mean).data_ptr() == address


@pytest.mark.parametrize("stack", [False, True])
def test_a_target_gets_the_buffers_of_what_it_tracks(stack: bool) -> None:
    agents = without_dropout(Normed)
    learner = StackedLearner(agents, CPU) if stack else EagerLearner(agents[0], CPU)
    for batch in batches(3):
        learner.update(batch if stack else Batch(*(part[0] for part in batch)))
    weights = learner.weights(0) if stack else agents[0].state_dict()
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(weights[f"target.1.{name}"], weights[f"critic.1.{name}"])
        assert weights[f"target.1.{name}"].any()
    assert not torch.equal(weights["target.0.weight"], weights["critic.0.weight"])


class Counts(Toy):
    calls = 0

    def update(self, batch, learner, phase):
        self.calls += 1
        super().update(batch, learner, phase)


class Remembers(Toy):
    """A recurrent policy that keeps its state in an attribute."""

    def act(self, obs, explore):
        self.state = torch.tanh(self.actor(obs))
        return self.state


class RemembersInBuffer(Toy):
    def __init__(self, *args):
        super().__init__(*args)
        self.register_buffer("state", torch.zeros(1))

    def act(self, obs, explore):
        self.state = torch.tanh(self.actor(obs)).mean(0)
        return super().act(obs, explore)


class Unsaved(Toy):
    def __init__(self, *args):
        super().__init__(*args)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def critic_loss(self, batch):
        self.seen += 1
        return super().critic_loss(batch)


class AssignsInUpdate(Unsaved):
    def update(self, batch, learner, phase):
        super().update(batch, learner, phase)
        self.seen = torch.ones(())


class OtherShape(Normed):
    def critic_loss(self, batch):
        loss, diagnostics = super().critic_loss(batch)
        self.mean = batch.reward
        return loss, diagnostics


class ReplacesWeights(Stepped):
    def optimisers(self):
        def project(twins):
            twins.q1[0].weight = nn.Parameter(torch.zeros_like(twins.q1[0].weight))

        return {**super().optimisers(), "twins": Adam(0.01, project=project)}


class Nested(Toy):
    def optimisers(self):
        return {"critic": Adam(0.1), "critic.weight": Adam(0.1)}


class Named(Toy):
    def __init__(self, *args):
        super().__init__(*args)
        self._modules["memory"] = nn.Linear(1, 1)


class OfTorch(Toy):
    def optimisers(self):
        return {"critic": torch.optim.AdamW(self.critic.parameters()), "actor": Adam(0.1)}


class NoSuchPart(Toy):
    def optimisers(self):
        return {"policy": Adam(0.1)}


class NoSuchRate(Toy):
    def optimisers(self):
        return {"critic": Adam(0.1, rates={"encoder": 0.1})}


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (
            Counts,
            "training changes the attribute calls, which a checkpoint does not contain; make it a persistent buffer",
        ),
        (Remembers, "training changes the attribute state,"),
        (RemembersInBuffer, r"act\(\) changes the buffer state; only losses may change buffers"),
        (Unsaved, "training changes the attribute seen, .*persistent"),
        (AssignsInUpdate, r"update\(\) assigns the buffer seen; change it in a loss"),
        (OtherShape, r"the buffer mean is .* of torch.float32; it cannot become \(.*3,\) of torch.float32"),
        (ReplacesWeights, "training replaces the parameter twins.q1.0.weight; change it in place"),
        (Nested, "names 'critic' and 'critic.weight', which is inside it"),
        (Named, "a module of an agent cannot be called 'memory'"),
        (OfTorch, r"optimisers\(\)\['critic'\] must be an algos.agent.Adam, got AdamW"),
        (NoSuchPart, r"names 'policy', which has no trained parameter \(choices: actor, critic\)"),
        (NoSuchRate, r"the rates of 'critic' name 'encoder', which is no part of it \(choices: weight, bias\)"),
    ],
)
@pytest.mark.parametrize("stack", [False, True])
def test_what_would_be_lost_or_ignored_is_refused_by_name(algorithm, message: str, stack: bool) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        trainer(algorithm, stack=stack)


# Memory


def explorers(stack: bool) -> list[tuple[Explorer, list[int]]]:
    """Explorers of two seeds, each with its rows."""
    agents = without_dropout(Recurrent)
    if stack:
        learner = StackedLearner(agents, CPU)
        return [(Explorer(learner, learner, 2), [0, 1])]
    return [(Explorer(each, each), [0]) for each in (EagerLearner(agent, CPU) for agent in agents)]


@pytest.mark.parametrize("stack", [False, True])
def test_a_memory_is_kept_within_an_episode_and_reset_at_its_start(stack: bool) -> None:
    made = explorers(stack)
    obs = torch.ones(2, 1, 2)

    def step() -> list[float]:
        for number, (explorer, rows_) in enumerate(made):
            explorer.act(obs if stack else obs[number])
            ages = [explorer.state(row)["age"].item() for row in rows_]
            found[number : number + len(ages)] = ages
        return list(found)

    found = [0.0, 0.0]
    assert [step() for _ in range(3)] == [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
    (made[0][0].begin(1) if stack else made[1][0].begin(0))
    explorer, row = (made[0][0], 1) if stack else (made[1][0], 0)
    assert explorer.state(row) == {}
    assert step() == [4.0, 1.0]


def test_a_hidden_state_is_that_of_the_cell_applied_again_and_again() -> None:
    ((explorer, _), _) = explorers(stack=False)
    agent = explorer._learner.agent
    hidden = torch.zeros(1, 3)
    for k in range(4):
        obs = torch.full((1, 2), float(k))
        explorer.act(obs)
        hidden = torch.tanh(agent.cell(torch.cat([obs, hidden], -1)))
    torch.testing.assert_close(explorer.state(0)["hidden"], hidden[0])


class Ages(Recurrent):
    """Its action is the number of steps since the start of the episode, in hundredths."""

    def act(self, obs, explore, memory):
        action, after = super().act(obs, explore, memory)
        return torch.zeros_like(action) + after["age"] / 100, after


class Watched(Walk):
    def step(self, action):
        self.ages.append(round(100 * float(action[0])))
        return super().step(action)


def watched(length: int, ages: list[int]) -> Watched:
    made = Watched(length)
    made.ages = ages
    return made


def test_an_evaluation_has_a_memory_of_its_own_from_its_first_observation_on() -> None:
    ages: list[int] = []
    episodes = Episodes(partial(watched, 3, ages), partial(Ages, config=ToyConfig()), 2)
    weights = Ages(2, 1, ToyConfig()).state_dict()
    for _ in range(2):
        episodes.returns(0, 5, weights)
    assert ages == [1, 1, 2, 2, 3, 3] * 2


@pytest.mark.parametrize("stack", [False, True])
def test_training_resets_the_memory_when_an_episode_begins(stack: bool) -> None:
    ages: list[int] = []
    made = build_trainer(
        partial(watched, 7, ages), Ages, ToyConfig(), (0,), steps=20, evaluate_every=20, evaluation_episodes=1,
        save_every=None, placement=Placement(CPU, stack=stack),
    )  # fmt: skip
    list(made.run())
    assert ages[4:20] == [1, 2, 3, *range(1, 8), *range(1, 7)]  # the first four actions are random


@pytest.mark.parametrize("stack", [False, True])
def test_an_agent_observes_every_transition_in_order(stack: bool) -> None:
    envs: list[Walk] = []

    def make() -> Walk:
        envs.append(Walk(7))
        return envs[-1]

    made = build_trainer(
        make, Scales, ToyConfig(), (0, 1), steps=20, evaluate_every=20, evaluation_episodes=1, save_every=None,
        placement=Placement(CPU, stack=stack),
    )  # fmt: skip
    list(made.run())
    for index in range(2):
        weights, returns, ret = made.weights(index), [], 0.0
        for step, reward in enumerate(envs[index].actions):
            ret = 0.9 * ret + reward
            returns.append(ret)
            ret = 0.0 if step % 7 == 6 else ret
        assert weights["count"] == len(returns) == 20
        assert weights["mean"].item() == pytest.approx(np.mean(returns), rel=1e-4)
        assert weights["squares"].item() == pytest.approx(np.var(returns) * 20, rel=1e-4)
    assert made._learner.updates == 16 + 5  # four random steps


def test_a_memory_may_keep_the_observation() -> None:
    class Last(Recurrent):
        def memory(self, obs):
            return {"obs": obs}

        def act(self, obs, explore, memory):
            return (obs - memory["obs"])[:, 1:] / 100, {"obs": obs}  # by how many steps the observations differ

    ages: list[int] = []
    Episodes(partial(watched, 3, ages), partial(Last, config=ToyConfig()), 1).returns(
        0, 5, Last(2, 1, ToyConfig()).state_dict()
    )
    assert ages == [0, 1, 1]


@pytest.mark.parametrize("stack", [False, True])
def test_a_reset_of_one_memory_leaves_the_others(stack: bool) -> None:
    class Constant(Recurrent):
        def act(self, obs, explore, memory):
            action, after = super().act(obs, explore, memory)
            return action, {**after, "age": torch.full((len(obs), 1), 7.0)}  # the same for all seeds

    agents = [Constant(2, 1, ToyConfig()) for _ in range(2)]
    learner = StackedLearner(agents, CPU) if stack else EagerLearner(agents[0], CPU)
    explorer = Explorer(learner, learner, 2)
    obs = torch.ones(2, 1, 2) if stack else torch.ones(2, 2)
    explorer.act(obs)
    explorer.begin(1)
    assert explorer._begins == {1}
    first = learner.first_memory(obs)
    explorer._memory["age"][1] = first["age"][1]
    assert explorer._memory["age"].flatten().tolist() == [7.0, 0.0]


def test_a_module_that_is_made_in_evaluation_mode_stays_in_it() -> None:
    agent = Normed(2, 1, ToyConfig())
    agent.actor[0].eval()
    learner = EagerLearner(agent, CPU)
    for batch in batches(2, seeds=1):
        learner.update(Batch(*(part[0] for part in batch)))
        learner.act(batch.obs[0], True)
    assert not agent.actor[0].running_mean.any()
    assert agent.critic[1].running_mean.any()


class ForgetsShape(Recurrent):
    def act(self, obs, explore, memory):
        action, after = super().act(obs, explore, memory)
        return action, {**after, "hidden": after["hidden"][:, :2]}


def test_a_memory_that_changes_its_shape_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"memory\(obs\) and act\(\) must give hidden as \[N, ...\]"):
        trainer(ForgetsShape)


# Steps


class One(Agent[ToyConfig]):
    """A single matrix; the gradient of its loss is what the test gives."""

    Config = ToyConfig

    def __init__(self, spec: Adam):
        super().__init__(2, 1, ToyConfig())
        self.spec = spec
        self.weight = nn.Parameter(torch.tensor([[1.0, -2.0], [3.0, 0.5]]))

    def optimisers(self):
        return {"weight": self.spec}

    def loss(self, gradient):
        return (self.weight * gradient).sum(), {}


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_betas_and_weight_decay_are_those_of_torch(decay: float) -> None:
    agent = One(Adam(0.05, betas=(0.5, 0.7), weight_decay=decay))
    learner, expected = EagerLearner(agent, CPU), agent.weight.detach().clone().requires_grad_()
    adam = torch.optim.AdamW([expected], lr=0.05, betas=(0.5, 0.7), weight_decay=decay)
    for k in range(5):
        gradient = torch.randn(2, 2, generator=torch.Generator().manual_seed(k))
        learner.minimise("weight", agent.loss, gradient)
        expected.grad = gradient
        adam.step()
    torch.testing.assert_close(agent.weight, expected)


def test_values_of_a_gradient_are_limited_before_its_norm() -> None:
    agent = One(Adam(0.1, clip_value=3.0, clip_norm=2.5))
    EagerLearner(agent, CPU).minimise("weight", agent.loss, torch.tensor([[9.0, -4.0], [0.0, 0.0]]))
    assert agent.weight.grad is not None
    side = 2.5 / math.sqrt(2.0)
    torch.testing.assert_close(agent.weight.grad, torch.tensor([[side, -side], [0.0, 0.0]]))


def test_parameters_with_one_gradient_together_are_clipped_once() -> None:
    agent = One(Adam(0.1, clip_norm=0.5, clip_value=9.0))
    agent.twin = nn.Parameter(torch.zeros(2, 2))
    agent.both = nn.ParameterList([agent.weight, agent.twin])
    agent.optimisers = lambda: {"both": agent.spec}
    learner = EagerLearner(agent, CPU)
    for _ in range(2):
        learner.minimise("both", lambda: (((agent.weight + agent.twin) * torch.full((2, 2), 3.0)).sum(), {}))
        size = torch.stack([agent.weight.grad, agent.twin.grad]).norm()
        assert size.item() == pytest.approx(0.5, rel=1e-4)


def test_the_rate_follows_the_schedule() -> None:
    agent = One(Adam(0.1, schedule=lambda progress: 1.0 - progress))
    learner = EagerLearner(agent, CPU)
    for progress in (0.0, 0.75):
        before = agent.weight.detach().clone()
        learner._progress = torch.tensor(progress)
        learner.minimise("weight", agent.loss, torch.ones(2, 2))
        torch.testing.assert_close(before - agent.weight, torch.full((2, 2), 0.1 * (1.0 - progress)))


def test_a_projection_is_applied_after_the_step() -> None:
    torch.manual_seed(0)
    agent = Stepped(2, 1, ToyConfig())
    learner = EagerLearner(agent, CPU)
    (batch,) = batches(1, seeds=1)
    learner.minimise("twins", agent.twins_loss, Batch(*(part[0] for part in batch)))
    for layer in (agent.twins.q1[0], agent.twins.q2[4]):
        torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(len(layer.weight)))
    assert not torch.allclose(agent.critic.weight.norm(dim=1), torch.ones(1))


def test_sub_modules_have_rates_of_their_own() -> None:
    torch.manual_seed(0)
    agent = Stepped(2, 1, ToyConfig())
    before = {name: tensor.clone() for name, tensor in agent.twins.state_dict().items()}
    learner = EagerLearner(agent, CPU)
    (batch,) = batches(1, seeds=1)
    learner.minimise("twins", agent.twins_loss, Batch(*(part[0] for part in batch)))
    for name, factor in (("q1.0.bias", 0.1), ("q1.4.bias", 0.1), ("q1.2.bias", 2.0), ("q2.0.bias", 1.0)):
        moved = (agent.twins.get_parameter(name) - before[name]).abs().max()
        assert moved.item() == pytest.approx(0.01 * factor, rel=1e-3)
