"""SAC against torch.distributions and targets worked out by hand."""

import math

import pytest
import torch
from handmade import Recorder, Stub, constant, random_batch, small_agent
from torch import nn
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from algos.sac import SACConfig, SquashedGaussian, Temperature, squashed_log_prob
from flowbench.learners.learner import EagerLearner

CPU = torch.device("cpu")


class Policy(nn.Module):
    """A policy whose samples and log-probabilities are known."""

    def __init__(self, action, log_prob):
        super().__init__()
        self.answer = torch.tensor(action), torch.tensor(log_prob)
        self.asked = []

    def sample(self, obs):
        self.asked.append(obs)
        return self.answer


def known_agent(log_prob, alpha=0.5, **parts):
    agent = small_agent("sac", gamma=0.9, initial_temperature=alpha)
    agent.actor = Policy([[0.1, 0.2]] * len(log_prob), log_prob)
    for name, network in parts.items():
        setattr(agent, name, network)
    return agent


def test_the_defaults_are_the_papers():
    c = SACConfig()
    assert (c.hidden, c.lr, c.tau, c.gamma, c.batch_size, c.replay_size) == (256, 3e-4, 0.005, 0.99, 256, 1_000_000)
    assert (c.initial_temperature, c.target_entropy_scale, c.recent_share) == (1.0, 1.0, 0.0)


# The policy


def test_the_log_probability_is_that_of_a_tanh_of_a_normal():
    generator = torch.Generator().manual_seed(3)
    mean, log_std, noise = torch.randn(3, 200, 4, dtype=torch.float64, generator=generator).unbind(0)
    log_std = 0.5 * log_std
    u = mean + log_std.exp() * noise
    squashed = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1))
    expected = Independent(squashed, 1).log_prob(squashed.transforms[0](u))
    torch.testing.assert_close(squashed_log_prob(u, noise, log_std), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, -0.5), (0.6, -1.0), (-1.0, 0.2)])
def test_the_density_of_an_action_integrates_to_one(mean, log_std):
    action = torch.linspace(-1, 1, 400_001, dtype=torch.float64)[1:-1]
    log_std = torch.full_like(action, log_std)
    u = torch.atanh(action)
    noise = (u - mean) / log_std.exp()
    density = squashed_log_prob(u[:, None], noise[:, None], log_std[:, None]).exp()
    assert torch.trapezoid(density, action).item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("u", [-30.0, -12.0, 12.0, 30.0])
def test_the_log_probability_is_finite_and_right_where_tanh_saturates_in_single_precision(u):
    zero = torch.zeros(1, 1)
    found = squashed_log_prob(torch.full((1, 1), u), zero, zero).item()
    # 1 - tanh^2 u = 4 exp(-2|u|) up to exp(-4|u|)
    assert found == pytest.approx(-0.5 * math.log(2 * math.pi) - math.log(4) + 2 * abs(u), rel=1e-5)


def test_a_sample_is_mean_plus_deviation_times_noise_squashed(draws):
    policy = SquashedGaussian(3, 2, 8)
    policy.net = constant([[0.3, -0.2, math.log(0.5), math.log(2.0)]])
    draws.normal.append(torch.tensor([[1.0, -1.0]]))
    action, log_prob = policy.sample(torch.zeros(1, 3))
    u = [0.3 + 0.5, -0.2 - 2.0]
    assert action[0].tolist() == pytest.approx([math.tanh(x) for x in u])
    gaussian = sum(-0.5 - math.log(std) - 0.5 * math.log(2 * math.pi) for std in (0.5, 2.0))
    by_hand = gaussian - sum(math.log(1 - math.tanh(x) ** 2) for x in u)
    assert log_prob.shape == (1,)
    assert log_prob.item() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("output", [0, 1], ids=["action", "log-probability"])
def test_a_sample_lets_the_gradient_through_to_mean_and_deviation(output):
    policy = SquashedGaussian(3, 2, 8)
    (gradient,) = torch.autograd.grad(policy.sample(torch.randn(5, 3))[output].sum(), policy.net[-1].weight)
    assert (gradient.abs().sum(dim=1) > 0).all()  # the rows are two means and two deviations


def test_the_deviation_is_bounded():
    policy = SquashedGaussian(3, 1, 8)
    policy.net = constant([[0.0, 50.0], [0.0, -50.0], [0.0, 1.0]])
    _, log_std = policy(torch.zeros(3, 3))
    assert log_std.flatten().tolist() == [2.0, -20.0, 1.0]


def test_evaluation_takes_the_mean_and_exploration_a_sample(draws):
    agent = small_agent("sac")
    agent.actor.net = constant([[0.3, -0.2, 0.0, 0.0]])
    obs = torch.zeros(1, 3)
    assert agent.act(obs, explore=False)[0].tolist() == pytest.approx([math.tanh(0.3), math.tanh(-0.2)])
    draws.normal.append(torch.tensor([[1.0, 0.5]]))
    assert agent.act(obs, explore=True)[0].tolist() == pytest.approx([math.tanh(1.3), math.tanh(0.3)])


# The losses


def test_the_critics_regress_on_the_soft_value_of_the_smaller_target():
    agent = known_agent(
        [-1.0, 2.0, 0.5],
        target_critic=constant([[5.0, 7.0, -1.0], [4.0, 9.0, -2.0]]),
        critic=constant([[1.0, 1.0, 1.0], [2.0, 0.0, 3.0]]),
    )
    batch = random_batch(3)._replace(reward=torch.tensor([1.0, 2.0, 3.0]), discount=torch.tensor([1.0, 0.0, 1.0]))
    loss, diagnostics = agent.critic_loss(batch)
    # soft values: 4 + 0.5, 7 - 1, -2 - 0.25; targets: 1 + 0.9 * 4.5 = 5.05; 2; 3 - 0.9 * 2.25 = 0.975
    first = (4.05**2 + 1.0**2 + 0.025**2) / 3
    second = (3.05**2 + 2.0**2 + 2.025**2) / 3
    assert loss.item() == pytest.approx(first + second, rel=1e-6)
    assert diagnostics["q"].item() == pytest.approx(8 / 6)
    assert agent.actor.asked[0] is batch.next_obs
    assert agent.target_critic.asked[0][0] is batch.next_obs
    assert agent.critic.asked[0] == (batch.obs, batch.action)


def test_the_critics_loss_passes_no_gradient_to_policy_or_temperature():
    agent = small_agent("sac")
    others = [*agent.actor.parameters(), *agent.temperature.parameters()]
    loss, _ = agent.critic_loss(random_batch())
    assert all(grad is None for grad in torch.autograd.grad(loss, others, allow_unused=True))


def test_the_actor_weighs_entropy_against_the_smaller_critic():
    agent = known_agent([-1.0, 2.0], alpha=0.5, critic=constant([[5.0, 7.0], [4.0, 9.0]]))
    batch = random_batch(2)
    loss, diagnostics = agent.actor_loss(batch)
    assert loss.item() == pytest.approx(((-0.5 - 4.0) + (1.0 - 7.0)) / 2)
    assert diagnostics["entropy"].item() == pytest.approx(-0.5)
    assert agent.actor.asked[0] is batch.obs


def test_the_actors_loss_passes_no_gradient_to_the_temperature():
    agent = small_agent("sac")
    loss, _ = agent.actor_loss(random_batch())
    assert torch.autograd.grad(loss, agent.temperature.log_alpha, allow_unused=True) == (None,)


def test_the_temperature_loss_by_hand():
    agent = small_agent("sac", initial_temperature=2.0)  # two dimensions, so the target entropy is -2
    loss, diagnostics = agent.temperature_loss(torch.tensor(-2.5))
    assert loss.item() == pytest.approx(-math.log(2.0) * (2.5 - 2.0))
    assert diagnostics["alpha"].item() == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("entropy", "sign"),
    [(-3.0, 1), (-2.0, 0), (-1.0, -1)],
    ids=["rises when entropy is too low", "rests when entropy is at its target", "falls when entropy is too high"],
)
def test_the_temperature(entropy, sign):
    agent = small_agent("sac")  # the target entropy is -2
    before = agent.temperature().item()
    EagerLearner(agent, CPU).minimise("temperature", agent.temperature_loss, torch.tensor(entropy))
    moved = agent.temperature().item() - before
    assert (moved > 0) - (moved < 0) == sign


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0])
def test_the_target_entropy_is_minus_the_number_of_action_dimensions_scaled(scale):
    assert small_agent("sac", target_entropy_scale=scale).target_entropy == -2.0 * scale


@pytest.mark.parametrize("alpha", [0.01, 1.0, 3.0])
def test_the_temperature_starts_as_asked(alpha):
    assert Temperature(alpha)().item() == pytest.approx(alpha)


def test_an_update_trains_critic_actor_and_temperature_then_tracks():
    agent, recorder = small_agent("sac", tau=0.3), Recorder()
    assert agent.period == 1
    agent.update(random_batch(), recorder, 0)
    assert recorder.calls == [
        ("minimise", "critic"),
        ("minimise", "actor"),
        ("minimise", "temperature"),
        ("track", "target_critic", "critic", 0.3),
    ]


def test_the_temperature_sees_the_entropy_of_the_actors_own_step():
    agent = small_agent("sac")
    seen = []

    class Learner(Recorder):
        def minimise(self, part, loss, *args):
            diagnostics = super().minimise(part, loss, *args)
            seen.append((part, args, diagnostics))
            return diagnostics

    agent.update(random_batch(6), Learner(), 0)
    (_, _, of_actor), (part, args, _) = seen[1:]
    assert part == "temperature"
    assert args[0].shape == ()
    assert torch.equal(args[0], of_actor["entropy"])
    assert not args[0].requires_grad


def test_a_soft_policy_spreads_until_its_entropy_is_the_target():
    """Where every action is worth the same, the learned temperature brings the entropy to its target."""
    agent = small_agent("sac", lr=1e-2, hidden=16)
    agent.critic = Stub(lambda obs, action: -3.0 * action.square().sum(-1).expand(2, -1))
    trained = dict(agent.optimisers())
    del trained["critic"]  # it is no network here
    agent.optimisers = lambda: trained
    learner = EagerLearner(agent, CPU)
    for k in range(400):
        batch = random_batch(64, seed=k)
        entropy = learner.minimise("actor", agent.actor_loss, batch)["entropy"]
        learner.minimise("temperature", agent.temperature_loss, entropy)
    assert entropy.item() == pytest.approx(agent.target_entropy, abs=0.4)
