"""FlowRL against targets worked out by hand."""

import math

import pytest
import torch
from handmade import Recorder, Stub, constant, never, random_batch, small_agent

from algos.flowrl import FlowRLConfig, VelocityField, expectile_loss, value_network
from flowbench.learners.learner import EagerLearner

CPU = torch.device("cpu")


def agent_with(config=None, **parts):
    agent = small_agent("flowrl", gamma=0.9, **(config or {}))
    for name, network in parts.items():
        setattr(agent, name, network)
    return agent


def ended_second(n):
    """A batch of `n` with rewards 1, 2, ...; the second ended its episode."""
    discount = torch.ones(n)
    discount[1] = 0.0
    return random_batch(n)._replace(reward=torch.arange(1.0, n + 1.0), discount=discount)


def test_the_defaults_are_those_of_the_released_code():
    c = FlowRLConfig()
    assert (c.hidden, c.lr, c.tau, c.gamma, c.batch_size, c.replay_size) == (512, 3e-4, 0.95, 0.99, 256, 1_000_000)
    assert (c.recent_share, c.recent_window, c.random_steps, c.updates_per_step) == (0.2, 2048, 5_000, 1)
    assert (c.flow_steps, c.scheme, c.policy_delay, c.expectile, c.lagrange) == (1, "midpoint", 2, 0.9, 0.1)
    assert (c.constraint, c.weights, c.weighting) == (True, "batch", "exponential")
    assert (c.behaviour_q, c.noise) == ("live", "apart")


# The policy


def test_the_start_of_a_flow_is_normal_noise_clipped_to_the_range_of_actions(draws):
    agent = small_agent("flowrl")
    draws.normal.append(torch.tensor([[0.3, -2.0], [1.5, -0.9]]))
    noise = agent.start(torch.zeros(2, 3))
    torch.testing.assert_close(noise, torch.tensor([[0.3, -1.0], [1.0, -0.9]]))


@pytest.mark.parametrize("explore", [True, False])
def test_an_action_is_the_squashed_end_of_one_midpoint_step(draws, explore):
    agent = agent_with(velocity=Stub(lambda obs, a, t: a + 10.0 * t))
    draws.normal.append(torch.tensor([[0.1, 3.0]]))
    obs = torch.zeros(1, 3)
    action = agent.act(obs, explore)
    # a0 = 0.1 and 1 (clipped); halfway 1.5 a0; the end a0 + 1.5 a0 + 5
    assert action[0].tolist() == pytest.approx([math.tanh(5.25), math.tanh(7.5)])
    assert [asked[0] is obs for asked in agent.velocity.asked] == [True, True]
    assert [asked[2].item() for asked in agent.velocity.asked] == [0.0, 0.5]


@pytest.mark.parametrize(
    ("config", "end"),
    [
        ({"flow_steps": 2, "scheme": "euler"}, 0.5 * 1.5 * 1.5),
        ({"flow_steps": 2, "scheme": "midpoint"}, 0.5 * 1.625 * 1.625),
        ({"flow_steps": 1, "scheme": "euler"}, 0.5 * 2.0),
    ],
)
def test_the_flow_takes_the_steps_and_the_rule_asked_for(draws, config, end):
    agent = agent_with(config, velocity=Stub(lambda obs, a, t: a))
    draws.normal.append(0.5)
    assert agent.act(torch.zeros(1, 3), True)[0].tolist() == pytest.approx([math.tanh(end)] * 2)


def test_the_velocity_field_sees_state_action_and_time():
    field = VelocityField(3, 2, 8)
    args = [torch.randn(4, 3), torch.randn(4, 2), torch.rand(4, 1)]
    field.net = Stub(lambda x: x)
    assert torch.equal(field(*args), torch.cat(args, dim=-1))


@pytest.mark.parametrize("net", [VelocityField(20, 4, 64).net, value_network(25, 64)], ids=["velocity", "value"])
def test_weights_start_xavier_uniform_and_biases_at_zero(net):
    linear = [module for module in net if isinstance(module, torch.nn.Linear)]
    for layer in linear:
        bound = math.sqrt(6 / (layer.in_features + layer.out_features))
        assert 0.8 * bound < layer.weight.abs().max() <= bound
        assert (layer.bias == 0).all()


def test_the_networks_have_the_layers_of_the_released_code():
    def layers(net):
        return [type(module).__name__ for module in net]

    hidden = ["Linear", "LayerNorm", "ELU"]
    assert layers(VelocityField(3, 2, 8).net) == hidden * 2 + ["Linear"]
    hidden = ["Linear", "LayerNorm", "GELU"]
    assert layers(value_network(3, 8)) == ["Linear", "LayerNorm", *hidden * 2, "Linear", "LayerNorm", "Linear"]


# The critics and the value


def test_the_critics_regress_on_the_smaller_target_discounted_unless_the_episode_ended():
    agent = agent_with(
        sample=lambda obs: torch.full((3, 2), 0.25),
        target_critic=constant([[5.0, 7.0, -1.0], [4.0, 9.0, -2.0]]),
        critic=constant([[1.0, 1.0, 1.0], [2.0, 0.0, 3.0]]),
    )
    batch = ended_second(3)
    loss, diagnostics = agent.critic_loss(batch)
    # targets: 1 + 0.9 * 4 = 4.6; 2, nothing after an end; 3 + 0.9 * -2 = 1.2
    first = (3.6**2 + 1.0**2 + 0.2**2) / 3
    second = (2.6**2 + 2.0**2 + 1.8**2) / 3
    assert loss.item() == pytest.approx(first + second, rel=1e-6)
    assert diagnostics["q"].item() == pytest.approx(8 / 6)
    asked = agent.target_critic.asked[0]
    assert asked[0] is batch.next_obs
    assert (asked[1] == 0.25).all()
    assert agent.critic.asked[0] == (batch.obs, batch.action)


def test_the_behaviour_critics_regress_on_the_live_value_of_the_next_state():
    agent = agent_with(
        behaviour_value=constant([[4.0], [7.0], [-2.0]]),
        behaviour_critic=constant([[1.0, 1.0, 1.0], [2.0, 0.0, 3.0]]),
        target_behaviour_critic=Stub(never),
        critic=Stub(never),
        target_critic=Stub(never),
    )
    batch = ended_second(3)
    loss, diagnostics = agent.behaviour_critic_loss(batch)
    first = (3.6**2 + 1.0**2 + 0.2**2) / 3
    second = (2.6**2 + 2.0**2 + 1.8**2) / 3
    assert loss.item() == pytest.approx(first + second, rel=1e-6)
    assert diagnostics["q_behaviour"].tolist() == [1.0, 0.0, 1.0]
    assert agent.behaviour_value.asked[0][0] is batch.next_obs
    assert agent.behaviour_critic.asked[0] == (batch.obs, batch.action)


def test_the_value_regresses_on_the_smaller_tracked_critic_at_the_stored_pair():
    agent = agent_with(
        {"expectile": 0.8},
        behaviour_value=constant([[1.0], [1.0]]),
        target_behaviour_critic=constant([[4.0, 9.0], [3.0, -2.0]]),
        behaviour_critic=Stub(never),
    )
    batch = random_batch(2)
    loss, diagnostics = agent.behaviour_value_loss(batch)
    # errors: 3 - 1 above, weighed 0.8; -2 - 1 below, weighed 0.2
    assert loss.item() == pytest.approx((0.8 * 4 + 0.2 * 9) / 2)
    assert diagnostics["v_behaviour"].item() == 1.0
    assert agent.target_behaviour_critic.asked[0] == (batch.obs, batch.action)
    assert agent.behaviour_value.asked[0][0] is batch.obs


def test_targets_pass_no_gradient():
    agent, batch = small_agent("flowrl"), random_batch()
    for network in (agent.target_critic, agent.target_behaviour_critic):
        network.requires_grad_(True)
    for loss, others in [
        (agent.critic_loss, [agent.target_critic, agent.velocity]),
        (agent.behaviour_critic_loss, [agent.behaviour_value]),
        (agent.behaviour_value_loss, [agent.target_behaviour_critic]),
    ]:
        parameters = [parameter for network in others for parameter in network.parameters()]
        grads = torch.autograd.grad(loss(batch)[0], parameters, allow_unused=True)
        assert all(grad is None for grad in grads), loss.__name__


def test_the_expectile_loss_by_hand():
    error = torch.tensor([2.0, -2.0, 0.0, -1.0])
    assert expectile_loss(error, 0.9).tolist() == pytest.approx([3.6, 0.4, 0.0, 0.1])
    assert expectile_loss(error, 0.5).tolist() == pytest.approx([2.0, 2.0, 0.0, 0.5])


# The policy's loss


def test_exponential_weights_by_hand():
    agent = small_agent("flowrl", lagrange=0.1, weighting="exponential")
    # gains 0 (cut), 1, 5; their mean is 2
    found = agent.weight(torch.tensor([-3.0, 1.0, 5.0])).tolist()
    assert found == pytest.approx([0.1 * math.exp(-2), 0.1 * math.exp(-1), 1.0])  # 0.1 e^3 = 2.0 is clipped
    # gains 0 and 20; their mean is 10
    assert agent.weight(torch.tensor([-1.0, 20.0])).tolist() == pytest.approx([0.001, 1.0])
    assert agent.weight(torch.zeros(3)).tolist() == pytest.approx([0.1] * 3)


def test_linear_weights_by_hand():
    agent = small_agent("flowrl", lagrange=0.5, weighting="linear")
    assert agent.weight(torch.tensor([-3.0, 1.0, 50.0])).tolist() == [0.0, 0.5, 25.0]


def test_the_flow_matching_error_by_hand(draws):
    agent = agent_with(velocity=Stub(lambda obs, a, t: 2.0 * a + t))
    batch = random_batch(2)._replace(action=torch.tensor([[0.5, -0.5], [1.0, 0.0]]))
    draws.normal.append(torch.tensor([[0.1, 3.0], [-0.2, 0.4]]))  # the second is clipped to 1
    draws.uniform.append(torch.tensor([[0.25], [0.75]]))
    errors = []
    for action, noise, t in [((0.5, -0.5), (0.1, 1.0), 0.25), ((1.0, 0.0), (-0.2, 0.4), 0.75)]:
        squares = []
        for a, a0 in zip(action, noise, strict=True):
            velocity = 2.0 * (t * a + (1 - t) * a0) + t
            squares.append((velocity - (a - a0)) ** 2)
        errors.append(sum(squares) / 2)
    assert agent.flow_matching_error(batch, agent.start(batch.obs)).tolist() == pytest.approx(errors)
    assert agent.velocity.asked[0][0] is batch.obs


def loss_with_known_terms(**config):
    """Critics at 1 and 2 (minimum), flow-matching errors 4 and 8, Q_beta* 3 and 2."""
    agent = agent_with(
        config,
        flow=lambda obs, noise: torch.full((2, 2), 0.25),
        critic=constant([[1.0, 5.0], [6.0, 2.0]]),
        flow_matching_error=lambda batch, noise: torch.tensor([4.0, 8.0]),
        behaviour_critic=Stub(never),
    )
    batch = random_batch(2)
    result = agent.policy_loss(batch, torch.tensor([3.0, 2.0]))
    asked = agent.critic.asked[0]
    assert asked[0] is batch.obs
    assert (asked[1] == 0.25).all()
    return result


def test_a_weight_for_the_batch_meets_the_mean_error():
    # weights 0.5 * (2, 0), mean 0.5; error 6; Q 1.5
    loss, diagnostics = loss_with_known_terms(weights="batch", weighting="linear", lagrange=0.5)
    assert loss.item() == pytest.approx(0.5 * 6.0 - 1.5)
    assert diagnostics["constraint"].item() == pytest.approx(3.0)
    assert diagnostics["weight"].item() == pytest.approx(0.5)


def test_a_weight_for_each_transition_meets_its_own_error():
    # (1 * 4 + 0 * 8) / 2
    loss, diagnostics = loss_with_known_terms(weights="sample", weighting="linear", lagrange=0.5)
    assert loss.item() == pytest.approx(2.0 - 1.5)
    assert diagnostics["constraint"].item() == pytest.approx(2.0)


@pytest.mark.parametrize("weights", ["batch", "sample"])
def test_exponential_weights_in_the_loss(weights):
    first, second = 0.1 * math.exp(1.0), 0.1 * math.exp(-1.0)
    by_hand = {"batch": (first + second) / 2 * 6.0, "sample": (first * 4 + second * 8) / 2}[weights]
    loss, _ = loss_with_known_terms(weights=weights, weighting="exponential", lagrange=0.1)
    assert loss.item() == pytest.approx(by_hand - 1.5)


def test_without_a_behaviour_value_the_loss_is_minus_q(draws):
    agent = agent_with({"constraint": False}, critic=constant([[1.0, 5.0], [6.0, 2.0]]))
    draws.normal.append(0.1)  # the sampled action's; none for a flow-matching term
    loss, diagnostics = agent.policy_loss(random_batch(2), None)
    assert loss.item() == pytest.approx(-1.5)
    assert diagnostics == {}


def test_the_weights_pass_no_gradient():
    """Only -Q and the error do: with a constant error nothing but the slope of Q is left."""
    config = {"weighting": "linear", "lagrange": 5.0}
    agent = agent_with(config, flow_matching_error=lambda batch, noise: torch.ones(2))
    action = torch.zeros(2, 2, requires_grad=True)
    agent.flow = lambda obs, noise: action
    agent.critic = Stub(lambda obs, a: torch.stack([a.sum(-1), a.sum(-1) + 1]))
    loss, _ = agent.policy_loss(random_batch(2), torch.tensor([3.0, 2.0]))
    (gradient,) = torch.autograd.grad(loss, action)
    assert gradient.tolist() == [[-0.5, -0.5], [-0.5, -0.5]]


def test_noise_and_time_of_the_constraint_are_apart_from_those_of_the_sampled_action(draws):
    agent = agent_with(velocity=Stub(lambda obs, a, t: a), critic=constant([[0.0], [0.0]]))
    batch = random_batch(1)._replace(action=torch.tensor([[0.0, 0.0]]))
    draws.normal += [0.5, -0.25]
    draws.uniform.append(0.5)
    agent.policy_loss(batch, torch.zeros(1))
    starts = [asked[1][0, 0].item() for asked in agent.velocity.asked]
    assert starts == pytest.approx([0.5, 0.75, -0.125])  # two evaluations of the flow, one of the path


def test_shared_noise_starts_the_constraint_where_the_sampled_action_started(draws):
    agent = agent_with({"noise": "shared"}, velocity=Stub(lambda obs, a, t: a), critic=constant([[0.0], [0.0]]))
    batch = random_batch(1)._replace(action=torch.tensor([[0.0, 0.0]]))
    draws.normal.append(0.5)  # once
    draws.uniform.append(0.5)
    agent.policy_loss(batch, torch.zeros(1))
    starts = [asked[1][0, 0].item() for asked in agent.velocity.asked]
    assert starts == pytest.approx([0.5, 0.75, 0.25])


def test_a_tracked_q_of_the_behaviour_comes_from_the_tracked_critic():
    agent = agent_with(
        {"behaviour_q": "tracked", "weights": "sample", "weighting": "linear", "lagrange": 0.5},
        flow=lambda obs, noise: torch.zeros(2, 2),
        critic=constant([[1.0, 1.0], [2.0, 2.0]]),
        flow_matching_error=lambda batch, noise: torch.tensor([4.0, 8.0]),
        target_behaviour_critic=constant([[7.0, 5.0], [4.0, 6.0]]),
        behaviour_critic=Stub(never),
    )
    loss, _ = agent.policy_loss(random_batch(2), torch.tensor([100.0, 100.0]))
    # advantages 4 - 1 and 5 - 1, weights 1.5 and 2
    assert loss.item() == pytest.approx((1.5 * 4.0 + 2.0 * 8.0) / 2 - 1.0)


def test_where_q_is_flat_the_constraint_ends_the_flow_at_the_stored_action_before_the_squash():
    agent = small_agent("flowrl", lr=3e-3, hidden=32, weighting="linear", lagrange=1.0)
    agent.critic = constant([[0.0] * 64] * 2)
    trained = dict(agent.optimisers())
    del trained["critic"]
    agent.optimisers = lambda: trained
    learner = EagerLearner(agent, CPU)
    stored = torch.tensor([0.4, -0.7])
    for k in range(300):
        batch = random_batch(64, seed=k)._replace(action=stored.expand(64, 2))
        learner.minimise("velocity", agent.policy_loss, batch, torch.ones(64))
    mean = learner.act(torch.randn(500, 3), explore=True).mean(0)
    torch.testing.assert_close(mean, torch.tanh(stored), atol=0.1, rtol=0)


# The update

CRITICS = [("minimise", "critic"), ("minimise", "behaviour_critic"), ("minimise", "behaviour_value")]


def test_policy_and_targets_follow_the_critics_every_second_update():
    agent, recorder = small_agent("flowrl", tau=0.3), Recorder()
    assert agent.period == 2
    for k in range(4):
        agent.update(random_batch(), recorder, k % 2)
    last = [
        ("minimise", "velocity"),
        ("track", "target_critic", "critic", 0.3),
        ("track", "target_behaviour_critic", "behaviour_critic", 0.3),
    ]
    assert recorder.calls == 2 * (CRITICS + last + CRITICS)


def test_without_the_constraint_nothing_of_the_behaviour_policy_is_left():
    agent, recorder = small_agent("flowrl", constraint=False, tau=0.3), Recorder()
    for phase in (0, 1):
        agent.update(random_batch(), recorder, phase)
    critic = ("minimise", "critic")
    assert recorder.calls == [critic, ("minimise", "velocity"), ("track", "target_critic", "critic", 0.3), critic]
    assert {name for name, _ in agent.named_children()} == {"velocity", "critic", "target_critic"}
    assert set(agent.optimisers()) == {"velocity", "critic"}


def test_the_constraint_changes_no_other_networks_start():
    with_it, without = small_agent("flowrl"), small_agent("flowrl", constraint=False)
    theirs = with_it.state_dict()
    assert all(torch.equal(theirs[key], tensor) for key, tensor in without.state_dict().items())


def test_the_behaviour_critic_starts_as_a_copy_that_trains_apart():
    agent = small_agent("flowrl")
    pairs = list(zip(agent.critic.parameters(), agent.behaviour_critic.parameters(), strict=True))
    assert all(torch.equal(a, b) and a is not b and b.requires_grad for a, b in pairs)


@pytest.mark.parametrize("delay", [1, 3])
def test_the_period_is_the_policy_delay(delay):
    assert small_agent("flowrl", policy_delay=delay).period == delay


def test_the_policy_sees_q_of_the_behaviour_critic_from_before_its_step_of_this_update():
    agent, batch = small_agent("flowrl", lr=1e-2), random_batch()
    with torch.no_grad():
        before = agent.behaviour_critic(batch.obs, batch.action).amin(0)
    seen = []
    real = agent.policy_loss
    agent.policy_loss = lambda batch, q_behaviour: seen.append(q_behaviour) or real(batch, q_behaviour)
    EagerLearner(agent, CPU).update(batch)
    assert torch.equal(seen[0], before)
    assert not seen[0].requires_grad
    with torch.no_grad():
        assert not torch.equal(agent.behaviour_critic(batch.obs, batch.action).amin(0), before)
