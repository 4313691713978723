"""SAC and TD3 against Stable-Baselines3: its own `train()` on the same weights, transitions and noise.

What differs on purpose is set equal here:
- SB3 halves SAC's critic loss (so does the paper's Eq. 5). Adam divides the factor out again but for its epsilon, so
  SB3's critic is given half of ours, 5e-9, and its losses and gradients are doubled.
- SB3 adds 1e-6 inside the logarithm of the tanh's derivative; it is set to zero, where ours is exact.
SB3 draws SAC's noise for this state before the next one's, ours the other way round: each draw is fed to its place.

Both are compared in double precision too, where what is left is no more than the order of a few sums: there a formula
that differs in anything, an epsilon of 1e-8 included, shows. SB3 casts observations to single precision, so for that
its cast is replaced.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from parity import Watched, as_type, batch_of, gap, make_parameters, normal

from algos.sac import SAC, SACConfig
from algos.td3 import TD3, TD3Config

sb3 = pytest.importorskip("stable_baselines3")
gymnasium = pytest.importorskip("gymnasium")

OBS_DIM, ACT_DIM, HIDDEN, BATCH, UPDATES = 5, 3, 32, 16, 10
TAU, GAMMA, LR = 0.02, 0.97, 1e-3

# The largest differences allowed, about ten times those found. Losses are compared relative to themselves or to one,
# gradients relative to their tensor's largest entry, parameters relative to the longest way that one of their tensor
# went. A number has 1.2e-7 (2.2e-16); a way of ten steps of 1e-3 is the difference of numbers a hundred times as long.
TOLERANCE = {
    torch.float32: SimpleNamespace(loss=2e-6, gradient=1e-5, way=2e-4),
    torch.float64: SimpleNamespace(loss=1e-14, gradient=5e-14, way=1e-12),
}


class Empty(gymnasium.Env):
    """An environment that only has spaces."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBS_DIM,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACT_DIM,), np.float32)

    def reset(self, *, seed=None, options=None):
        return np.zeros(OBS_DIM, np.float32), {}


@pytest.fixture(params=[torch.float32, torch.float64], ids=["single", "double"])
def dtype(request, monkeypatch):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    if request.param == torch.float64:
        monkeypatch.setattr("stable_baselines3.common.policies.preprocess_obs", lambda obs, *args, **kw: obs)
    yield request.param
    torch.set_default_dtype(before)


@pytest.fixture
def normals(monkeypatch):
    """Replaces what SB3 draws, in `Tensor.normal_`, by the numbers put here; all must be used."""
    queue = []

    def normal_(self, mean=0.0, std=1.0):
        assert queue, "SB3 draws more than expected"
        return self.copy_(mean + std * queue.pop(0).to(self.dtype))

    monkeypatch.setattr(torch.Tensor, "normal_", normal_)
    yield queue
    assert not queue, "SB3 draws less than expected"


def give(ours, theirs):
    """Copy the parameters of one of our networks, in order, into some of SB3's."""
    with torch.no_grad():
        for source, target in zip(ours, theirs, strict=True):
            target.copy_(source)


class Peer:
    """An algorithm of SB3 that trains on the transitions it is handed, and the gradients its optimisers see."""

    def __init__(self, algorithm, **settings):
        self.model = algorithm(
            "MlpPolicy", Empty(), learning_rate=LR, buffer_size=BATCH, batch_size=BATCH, tau=TAU, gamma=GAMMA,
            policy_kwargs={"net_arch": [HIDDEN, HIDDEN]}, device="cpu", **settings,
        )  # fmt: skip
        self.model.set_logger(sb3.common.logger.Logger(None, []))
        self.gradients = {}
        for part, optimiser in self.optimisers().items():
            optimiser.register_step_pre_hook(lambda *_, part=part: self._note(part))

    def optimisers(self):
        optimisers = {"critic": self.model.critic.optimizer, "actor": self.model.actor.optimizer}
        if hasattr(self.model, "ent_coef_optimizer"):
            optimisers["temperature"] = self.model.ent_coef_optimizer
        return optimisers

    def _note(self, part):
        group = self.optimisers()[part].param_groups[0]["params"]
        self.gradients[part] = [parameter.grad.clone() for parameter in group]

    def train(self, batch, timeouts, dtype):
        """One gradient step on `batch`, by way of SB3's replay buffer, where a time limit is an end with a mark."""
        buffer, self.gradients = self.model.replay_buffer, {}
        for k in range(BATCH):
            end = np.array([batch.discount[k].item() == 0.0 or bool(timeouts[k])])
            one = [x[k].float().numpy()[None] for x in (batch.obs, batch.next_obs, batch.action, batch.reward)]
            buffer.add(*one, end, [{"TimeLimit.truncated": bool(timeouts[k])}])
        samples = buffer._get_samples(np.arange(BATCH))
        known = type(samples)(*(None if x is None else x.to(dtype) for x in samples))
        self.model.replay_buffer = SimpleNamespace(sample=lambda size, env: known)
        self.model.train(gradient_steps=1, batch_size=BATCH)
        self.model.replay_buffer = buffer
        return dict(self.model.logger.name_to_value)


def transitions(update, dtype):
    """A batch, rounded to single precision as SB3's buffer holds it, and which of its states a time limit cut."""
    batch = as_type(as_type(batch_of(f"sb3/{update}", BATCH, OBS_DIM, ACT_DIM), torch.float32), dtype)
    timeouts = (batch.discount == 1.0) & (torch.arange(BATCH) % 3 == 0)
    assert 0 < (batch.discount == 0.0).sum() < BATCH
    assert timeouts.any()
    return batch, timeouts


def noise(name):
    """Normal numbers for a batch, rounded to single precision."""
    return normal(f"sb3/{name}", BATCH, ACT_DIM).float().double()


def same_loss(found, expected, tolerance, what):
    """Differences relative to the loss, or to one: a loss is a mean of numbers of about one, which may cancel."""
    difference = gap(found, expected, size=max(abs(expected), 1.0))
    assert difference <= tolerance, f"{what}: {difference:.1e}"


def same_gradients(found, expected, tolerance, what):
    for a, b in zip(found, expected, strict=True):
        difference = gap(a, b)
        assert difference <= tolerance, f"{what}: {difference:.1e}"


def same_way(found, expected, before, tolerance, what):
    """Parameters that moved from `before` by the same: differences relative to the longest way."""
    for a, b, start in zip(found, expected, before, strict=True):
        difference = gap(a, b, size=(b - start).abs().max().item())
        assert difference <= tolerance, f"{what}: {difference:.1e}"


def clones(parameters):
    return [parameter.detach().clone() for parameter in parameters]


# SAC


SAC_LOSSES = {"critic": "train/critic_loss", "actor": "train/actor_loss", "temperature": "train/ent_coef_loss"}


def split_last(parameters):
    """Our policy's parameters in SB3's order: it has two output layers, for mean and deviation, where ours has one."""
    *hidden, last, last_bias = parameters
    (mean, log_std), (mean_bias, log_std_bias) = last.chunk(2), last_bias.chunk(2)
    return [*hidden, mean, mean_bias, log_std, log_std_bias]


def of_sac(agent):
    """Our parameters by part, in SB3's order."""
    return {
        "actor": split_last(agent.actor.net.parameters()),
        "critic": list(agent.critic.parameters()),
        "target_critic": list(agent.target_critic.parameters()),
        "temperature": [agent.temperature.log_alpha[None]],
    }


def of_sb3_sac(model):
    actor = model.actor
    return {
        "actor": [*actor.latent_pi.parameters(), *actor.mu.parameters(), *actor.log_std.parameters()],
        "critic": list(model.critic.parameters()),
        "target_critic": list(model.critic_target.parameters()),
        "temperature": [model.log_ent_coef],
    }


def sac_pair(temperature=0.3):
    config = SACConfig(hidden=HIDDEN, lr=LR, tau=TAU, gamma=GAMMA, initial_temperature=temperature)
    agent = SAC(OBS_DIM, ACT_DIM, config)
    make_parameters({name: p for name, p in agent.named_parameters() if p.ndim})  # all but the temperature
    with torch.no_grad():  # deviations of about 1/3: SB3's 1 - a^2 cancels where an action is near its bound
        agent.actor.net[-1].bias[ACT_DIM:] -= 1.0
    peer = Peer(sb3.SAC, ent_coef=f"auto_{temperature}")
    for part, parameters in of_sb3_sac(peer.model).items():
        give(of_sac(agent)[part], parameters)
    peer.model.actor.action_dist.epsilon = 0.0
    for group in peer.model.critic.optimizer.param_groups:
        group["eps"] /= 2
    return agent, peer


def test_sac_is_sb3s(dtype, draws, normals):
    agent, peer = sac_pair()
    learner, tolerance = Watched(agent), TOLERANCE[dtype]
    before = {part: clones(parameters) for part, parameters in of_sac(agent).items()}
    for k in range(UPDATES):
        batch, timeouts = transitions(k, dtype)
        here, there = noise(f"here{k}"), noise(f"there{k}")
        normals += [here, there]
        draws.normal += [there, here]
        logged = peer.train(batch, timeouts, dtype)
        learner.update(batch)

        assert [part for part, *_ in learner.steps] == ["critic", "actor", "temperature"]
        for part, loss, _, gradients, _ in learner.steps:
            factor = 2.0 if part == "critic" else 1.0
            expected = factor * logged[SAC_LOSSES[part]]
            same_loss(loss, expected, tolerance.loss, f"{part}'s loss in update {k}")
            if part == "actor":
                gradients = split_last(gradients)
            expected = [factor * gradient for gradient in peer.gradients[part]]
            if part == "temperature":
                gradients = [gradients[0][None]]
            same_gradients(gradients, expected, tolerance.gradient, f"{part}'s gradient in update {k}")
        for part, parameters in of_sb3_sac(peer.model).items():
            same_way(of_sac(agent)[part], parameters, before[part], tolerance.way, f"{part} after update {k}")


def test_sac_acts_as_sb3_does(dtype, draws, normals):
    agent, peer = sac_pair()
    batch, _ = transitions(0, dtype)
    given = noise("act")
    normals.append(given)
    draws.normal.append(given)
    with torch.no_grad():
        for explore in (True, False):
            expected = peer.model.actor(batch.obs, deterministic=not explore)
            assert gap(agent.act(batch.obs, explore), expected) <= TOLERANCE[dtype].loss


def test_sac_differs_by_sb3s_epsilon_alone(dtype, draws, normals):
    """With it SB3's log-probability is too low by log(1 + 1e-6 / (1 - a^2)) an action dimension."""
    agent, peer = sac_pair()
    batch, _ = transitions(0, dtype)
    peer.model.actor.action_dist.epsilon = 1e-6
    given = noise("act")
    normals.append(given)
    draws.normal.append(given)
    with torch.no_grad():
        action, log_prob = agent.actor.sample(batch.obs)
        other_action, lower = peer.model.actor.action_log_prob(batch.obs)
    by = torch.log1p(1e-6 / (1.0 - action.square())).sum(-1)
    assert 3e-6 < by.max() < 1e-3
    assert gap(action, other_action) <= TOLERANCE[dtype].loss
    assert gap(lower + by, log_prob) <= TOLERANCE[dtype].loss


# TD3


def of_td3(agent):
    parts = ("actor", "critic", "target_actor", "target_critic")
    return {part: list(agent.get_submodule(part).parameters()) for part in parts}


def of_sb3_td3(model):
    parts = {"actor": model.actor, "critic": model.critic}
    parts |= {"target_actor": model.actor_target, "target_critic": model.critic_target}
    return {part: list(network.parameters()) for part, network in parts.items()}


def td3_pair(delay):
    noises = {"target_noise": 0.4, "noise_clip": 0.5}  # a fifth of the draws is clipped
    agent = TD3(OBS_DIM, ACT_DIM, TD3Config(hidden=HIDDEN, lr=LR, tau=TAU, gamma=GAMMA, policy_delay=delay, **noises))
    make_parameters(dict(agent.named_parameters()))
    peer = Peer(sb3.TD3, policy_delay=delay, target_policy_noise=0.4, target_noise_clip=0.5)
    for part, parameters in of_sb3_td3(peer.model).items():
        give(of_td3(agent)[part], parameters)
    return agent, peer


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_td3_is_sb3s(dtype, draws, normals, delay):
    agent, peer = td3_pair(delay)
    learner, tolerance = Watched(agent), TOLERANCE[dtype]
    before = {part: clones(parameters) for part, parameters in of_td3(agent).items()}
    for k in range(UPDATES):
        batch, timeouts = transitions(k, dtype)
        given = noise(f"target{k}")
        normals.append(given)
        draws.normal.append(given)
        peer.model.logger.name_to_value.clear()
        logged = peer.train(batch, timeouts, dtype)
        learner.update(batch)

        trained = [part for part, *_ in learner.steps]
        assert trained == (["critic", "actor"] if "train/actor_loss" in logged else ["critic"])
        assert trained == list(peer.gradients)
        for part, loss, _, gradients, _ in learner.steps:
            same_loss(loss, logged[f"train/{part}_loss"], tolerance.loss, f"{part}'s loss in update {k}")
            same_gradients(gradients, peer.gradients[part], tolerance.gradient, f"{part}'s gradient in update {k}")
        for part, parameters in of_sb3_td3(peer.model).items():
            if all(torch.equal(a, b) for a, b in zip(parameters, before[part], strict=True)):  # its turn is to come
                assert all(torch.equal(a, b) for a, b in zip(of_td3(agent)[part], parameters, strict=True))
            else:
                same_way(of_td3(agent)[part], parameters, before[part], tolerance.way, f"{part} after update {k}")


def test_td3_acts_as_sb3_does(dtype):
    agent, peer = td3_pair(2)
    batch, _ = transitions(0, dtype)
    with torch.no_grad():
        assert gap(agent.act(batch.obs, explore=False), peer.model.actor(batch.obs)) <= TOLERANCE[dtype].loss
