"""TD3 against targets worked out by hand."""

import math

import pytest
import torch
from handmade import Recorder, Stub, constant, never, random_batch, small_agent

from algos.td3 import TD3Config
from flowbench.learners.learner import EagerLearner


def agent_with(**parts):
    agent = small_agent("td3", gamma=0.9)
    for name, network in parts.items():
        setattr(agent, name, network)
    return agent


def three(**values):
    """A batch of three; the second ended its episode, the third was cut by the time limit."""
    batch = random_batch(3)._replace(reward=torch.tensor([1.0, 2.0, 3.0]), discount=torch.tensor([1.0, 0.0, 1.0]))
    return batch._replace(**values)


def zeros():
    """Twin critics that value three actions at nothing."""
    return constant([[0.0] * 3] * 2)


def test_the_defaults_are_those_of_the_authors_code():
    c = TD3Config()
    assert (c.hidden, c.lr, c.tau, c.gamma, c.batch_size) == (256, 3e-4, 0.005, 0.99, 256)
    assert (c.policy_delay, c.exploration_noise, c.target_noise, c.noise_clip) == (2, 0.1, 0.2, 0.5)
    assert (c.random_steps, c.replay_size, c.recent_share) == (25_000, 1_000_000, 0.0)


def test_the_critics_regress_on_the_smaller_target_discounted_unless_the_episode_ended():
    agent = agent_with(
        target_actor=constant([[0.0, 0.0]] * 3),
        target_critic=constant([[5.0, 7.0, -1.0], [4.0, 9.0, -2.0]]),
        critic=constant([[1.0, 1.0, 1.0], [2.0, 0.0, 3.0]]),
        actor=Stub(never),
    )
    loss, diagnostics = agent.critic_loss(three())
    # targets: 1 + 0.9 * 4 = 4.6; 2, nothing after an end; 3 + 0.9 * -2 = 1.2
    first = (3.6**2 + 1.0**2 + 0.2**2) / 3
    second = (2.6**2 + 2.0**2 + 1.8**2) / 3
    assert loss.item() == pytest.approx(first + second, rel=1e-6)
    assert diagnostics["q"].item() == pytest.approx(8 / 6)


def test_the_target_is_asked_about_the_next_state_and_the_critic_about_the_stored_pair():
    agent = agent_with(
        target_actor=constant([[0.1, 0.2]] * 3),
        target_critic=constant([[0.0] * 3] * 2),
        critic=constant([[0.0] * 3] * 2),
    )
    batch = three()
    agent.critic_loss(batch)
    assert agent.target_actor.asked[0][0] is batch.next_obs
    assert agent.target_critic.asked[0][0] is batch.next_obs
    assert agent.critic.asked[0] == (batch.obs, batch.action)


def test_target_noise_is_scaled_then_clipped_and_the_action_kept_in_bounds(draws):
    agent = agent_with(
        target_actor=constant([[0.0, 0.3]] * 3),
        target_critic=constant([[0.0] * 3] * 2),
        critic=constant([[0.0] * 3] * 2),
    )
    draws.normal.append(torch.tensor([[1.0, -1.0], [10.0, -10.0], [2.4, 10.0]]))
    agent.critic_loss(three())
    smoothed = agent.target_critic.asked[0][1]
    torch.testing.assert_close(smoothed, torch.tensor([[0.2, 0.1], [0.5, -0.2], [0.48, 0.8]]))
    agent.target_actor = constant([[0.9, -0.9]] * 3)
    draws.normal.append(torch.tensor([[10.0, -10.0], [0.0, 0.0], [-1.0, 1.0]]))
    agent.critic_loss(three())
    smoothed = agent.target_critic.asked[1][1]
    torch.testing.assert_close(smoothed, torch.tensor([[1.0, -1.0], [0.9, -0.9], [0.7, -0.7]]))


def test_no_gradient_passes_through_the_target():
    agent = small_agent("td3")
    for target in (agent.target_actor, agent.target_critic):
        target.requires_grad_(True)
    loss, _ = agent.critic_loss(random_batch())
    targets = [*agent.target_actor.parameters(), *agent.target_critic.parameters()]
    assert all(grad is None for grad in torch.autograd.grad(loss, targets, allow_unused=True))


def test_the_actor_climbs_the_first_critic_alone_at_the_states_of_the_batch():
    agent = small_agent("td3")
    agent.actor = Stub(lambda obs: 0.5 * obs[:, :2])
    agent.critic.q1 = Stub(lambda x: x @ torch.tensor([[1.0], [10.0], [100.0], [1000.0], [10000.0]]))
    agent.critic.q2 = Stub(never)
    batch = random_batch(2)._replace(obs=torch.tensor([[1.0, 2.0, 3.0], [0.0, -2.0, 0.0]]))
    loss, _ = agent.actor_loss(batch)
    # q: 321 + 500 + 10000 and -20 - 10000
    assert loss.item() == pytest.approx(-(10821.0 - 10020.0) / 2)


def test_an_actor_step_raises_the_first_critics_value():
    agent = small_agent("td3", lr=1e-3)
    batch, learner = random_batch(64), EagerLearner(agent, torch.device("cpu"))
    before = agent.actor_loss(batch)[0].item()
    for _ in range(10):
        learner.minimise("actor", agent.actor_loss, batch)
    assert agent.actor_loss(batch)[0].item() < before


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_actor_and_targets_move_once_in_policy_delay_updates(delay):
    agent = small_agent("td3", policy_delay=delay, tau=0.3)
    assert agent.period == delay
    recorder = Recorder()
    for k in range(2 * delay):
        agent.update(random_batch(), recorder, k % delay)
    critic = ("minimise", "critic")
    full = [
        critic,
        ("minimise", "actor"),
        ("track", "target_critic", "critic", 0.3),
        ("track", "target_actor", "actor", 0.3),
    ]
    assert recorder.calls == 2 * ([critic] * (delay - 1) + full)


def test_exploration_adds_noise_and_stays_in_bounds(draws):
    agent = small_agent("td3", exploration_noise=0.5)
    agent.actor = constant([[0.0, 0.4], [0.9, -0.9]])
    draws.normal.append(torch.tensor([[1.0, -2.0], [1.0, -1.0]]))
    action = agent.act(torch.zeros(2, 3), explore=True)
    torch.testing.assert_close(action, torch.tensor([[0.5, -0.6], [1.0, -1.0]]))


def test_evaluation_uses_the_actor_as_it_is(draws):
    agent = small_agent("td3")
    obs = torch.randn(4, 3)
    assert torch.equal(agent.act(obs, explore=False), agent.actor(obs))


def test_the_actor_squashes_with_tanh():
    actor = small_agent("td3").actor
    actor.net = Stub(lambda obs: 0.5 * obs)
    assert actor(torch.tensor([[2.0]])).item() == pytest.approx(math.tanh(1.0))
