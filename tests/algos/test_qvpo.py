"""QVPO against targets worked out by hand."""

import math

import pytest
import torch
from handmade import Recorder, Stub, constant, never, random_batch, small_agent
from torch import nn

from algos.agent import Adam
from algos.qvpo import NoiseModel, QVPOConfig, critic_network
from flowbench.learners.learner import EagerLearner

CPU = torch.device("cpu")


class KnownActor(nn.Module):
    """A noise model that predicts half of what it sees."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def of_state(self, obs):
        return obs

    def times(self):
        return torch.arange(100.0)[:, None]

    def forward(self, x, time, state):
        self.asked.append((x, time, state))
        return 0.5 * x


class NoActor(nn.Module):
    of_state = times = forward = never


def agent_with(actions=None, config=None, **parts):
    """An agent whose reverse process gives `actions` [samples, B, 2] and notes where it starts, or a real one."""
    agent = small_agent("qvpo", gamma=0.9, **(config or {}))
    if actions is not None:
        agent.starts = []
        agent.diffusion.denoise = lambda model, x: agent.starts.append(x) or actions
    for name, network in parts.items():
        setattr(agent, name, network)
    return agent


def middle_is_best():
    """Twin critics whose minimum is highest, 0.5, at a first dimension of 0.5; either alone prefers an end."""
    return Stub(lambda obs, action: torch.stack([action[..., 0], 1.0 - action[..., 0]]))


# Three samples of two states. The minimum of the twins: 0.1 0.4 -0.5 and 0.25 -0.2 0.5.
SAMPLES = torch.tensor([[[0.9, 0.01], [0.25, 0.02]], [[0.4, 0.03], [-0.2, 0.04]], [[-0.5, 0.05], [0.5, 0.06]]])
VALUES = [[0.1, 0.25], [0.4, -0.2], [-0.5, 0.5]]
BEST = [[0.4, 0.03], [0.5, 0.06]]


def test_the_defaults_are_those_of_the_released_code():
    c = QVPOConfig()
    assert (c.hidden, c.actor_lr, c.critic_lr, c.adam_eps, c.clip_norm, c.tau) == (256, 1e-4, 3e-4, 1e-5, 2.0, 0.005)
    assert (c.denoising_steps, c.train_samples, c.behaviour_samples, c.target_samples, c.eval_samples) == (
        20, 64, 4, 4, 32,
    )  # fmt: skip
    assert (c.entropy_samples, c.entropy_weight, c.entropy_weight_min) == (10, 0.02, 0.002)
    assert (c.gamma, c.batch_size, c.replay_size, c.random_steps) == (0.99, 256, 1_000_000, 10_000)
    assert (c.recent_share, c.updates_per_step) == (0.0, 1)


# The noise model


def test_the_split_first_layer_is_one_linear_layer_over_action_time_and_state():
    model = NoiseModel(5, 3, 16, 20)
    nn.init.normal_(model.of_state.bias)  # it starts at zero
    joined = nn.Linear(3 + 32 + 5, 16)
    with torch.no_grad():
        joined.weight.copy_(torch.cat([model.of_action.weight, model.of_time.weight, model.of_state.weight], dim=1))
        joined.bias.copy_(model.of_state.bias)
    x, obs, t = torch.randn(7, 3), torch.randn(7, 5), torch.randint(20, (7,))
    embedded = model.time(model.frequencies)[t]
    expected = model.rest(joined(torch.cat([x, embedded, obs], dim=-1)))
    torch.testing.assert_close(model(x, model.times()[t], model.of_state(obs)), expected)


def test_a_step_is_embedded_in_sixteen_sines_and_sixteen_cosines():
    model = NoiseModel(3, 2, 8, 20)
    for step in (0, 1, 19):
        rates = [10_000 ** (-k / 15) for k in range(16)]
        by_hand = [math.sin(step * rate) for rate in rates] + [math.cos(step * rate) for rate in rates]
        assert model.frequencies[step].tolist() == pytest.approx(by_hand, abs=1e-5)


def test_the_time_network_is_of_the_released_shape():
    model = NoiseModel(3, 2, 8, 20)
    assert [type(module) for module in model.time] == [nn.Linear, nn.Mish, nn.Linear]
    assert (model.time[0].in_features, model.time[0].out_features, model.time[2].out_features) == (32, 8, 32)
    assert model.of_action.bias is None
    assert model.of_time.bias is None
    mish, last = model.rest
    assert isinstance(mish, nn.Mish)
    assert [type(module) for module in last] == [nn.Linear, nn.Mish, nn.Linear, nn.Mish, nn.Linear]


def test_critics_have_three_mish_layers():
    kinds = [type(module) for module in critic_network(5, 8)]
    assert kinds == [nn.Linear, nn.Mish, nn.Linear, nn.Mish, nn.Linear, nn.Mish, nn.Linear]


def test_weights_start_normal_cut_at_two_deviations_of_the_whole_inputs_width():
    model = NoiseModel(60, 8, 64, 20)
    width = 60 + 8 + 32
    layers = [(piece, width) for piece in (model.of_action, model.of_time, model.of_state)]
    layers += [(m, m.in_features) for m in [model.time[0], *critic_network(100, 64)] if isinstance(m, nn.Linear)]
    for layer, width in layers:
        std = 1 / (2 * math.sqrt(width))
        assert layer.weight.abs().max() <= 2 * std
        if layer.weight.numel() > 200:
            assert layer.weight.std().item() == pytest.approx(0.88 * std, rel=0.1)  # a normal cut at two deviations
        assert layer.bias is None or (layer.bias == 0).all()


# Choosing among samples


def test_the_best_sample_has_the_highest_minimum_of_the_twins():
    agent = agent_with(SAMPLES)
    critic, obs = middle_is_best(), torch.randn(2, 3)
    best, q = agent.best_of(3, obs, KnownActor(), critic)
    torch.testing.assert_close(best, torch.tensor(BEST))
    torch.testing.assert_close(q, torch.tensor(VALUES))
    many, asked = critic.asked[0]
    assert torch.equal(many, obs.expand(3, 2, 3))
    assert torch.equal(asked, SAMPLES)


def test_every_sample_starts_from_noise_of_its_own():
    agent = agent_with(SAMPLES)
    agent.best_of(3, torch.randn(2, 3), KnownActor(), middle_is_best())
    start = agent.starts[0]
    assert start.shape == (3, 2, 2)
    assert start.unique().numel() == start.numel()


def test_the_noise_model_is_asked_with_the_embedding_of_the_step_and_the_state():
    agent = agent_with(config={"denoising_steps": 3})
    actor, obs = KnownActor(), torch.randn(2, 3)
    agent.best_of(4, obs, actor, middle_is_best())
    assert [time.item() for _, time, _ in actor.asked] == [2.0, 1.0, 0.0]
    assert all(torch.equal(state, obs) for _, _, state in actor.asked)
    assert all(x.shape == (4, 2, 2) for x, _, _ in actor.asked)


def test_the_best_sample_passes_no_gradient():
    agent = small_agent("qvpo")
    best, q = agent.best_of(3, torch.randn(2, 3), agent.actor, agent.critic)
    assert not best.requires_grad
    assert not q.requires_grad


@pytest.mark.parametrize(("explore", "samples"), [(True, 4), (False, 32)])
def test_acting_takes_the_best_of_four_and_evaluating_the_best_of_thirty_two(explore, samples):
    default = QVPOConfig()
    counts = {"behaviour_samples": default.behaviour_samples, "eval_samples": default.eval_samples}
    agent = agent_with(
        SAMPLES, counts, actor=KnownActor(), critic=middle_is_best(), target_actor=NoActor(), target_critic=Stub(never)
    )
    agent.diffusion.denoise = lambda model, x: agent.starts.append(x) or SAMPLES[:1].expand(samples, 2, 2)
    agent.act(torch.randn(2, 3), explore)
    assert agent.starts[0].shape == (samples, 2, 2)


def test_an_action_is_the_best_by_the_live_critic():
    agent = agent_with(
        SAMPLES,
        {"behaviour_samples": 3},
        actor=KnownActor(),
        critic=middle_is_best(),
        target_actor=NoActor(),
        target_critic=Stub(never),
    )
    torch.testing.assert_close(agent.act(torch.randn(2, 3), explore=True), torch.tensor(BEST))


# The critics


def test_the_critics_regress_on_the_target_policys_best_by_the_target_critics():
    agent = agent_with(
        SAMPLES,
        {"target_samples": 3},
        actor=NoActor(),
        target_actor=KnownActor(),
        target_critic=middle_is_best(),
        critic=constant([[1.0, 0.0], [2.0, 3.0]]),
    )
    batch = random_batch(2)._replace(reward=torch.tensor([1.0, 2.0]), discount=torch.tensor([1.0, 0.0]))
    loss, diagnostics = agent.critic_loss(batch)
    # targets: 1 + 0.9 * 0.4 = 1.36 and 2, nothing after an end
    assert loss.item() == pytest.approx((0.36**2 + 2.0**2) / 2 + (0.64**2 + 1.0**2) / 2, rel=1e-6)
    assert diagnostics["q"].item() == pytest.approx(1.5)
    assert agent.starts[0].shape == (3, 2, 2)
    assert torch.equal(agent.target_critic.asked[0][0][0], batch.next_obs)
    assert agent.critic.asked[0] == (batch.obs, batch.action)


# The policy


@pytest.mark.parametrize(
    ("progress", "share"),
    [(0.0, 0.02), (0.25, 0.015), (0.5, 0.01), (0.9, 0.002), (0.95, 0.002), (1.0, 0.002)],
)
def test_the_entropy_weight_falls_linearly_to_its_floor(progress, share):
    assert small_agent("qvpo").entropy_share(torch.tensor(progress)).item() == pytest.approx(share)


@pytest.mark.parametrize(("weight", "floor", "expected"), [(0.001, 0.002, 0.001), (0.0, 0.002, 0.0), (0.02, 0.0, 0.0)])
def test_the_floor_never_lifts_the_entropy_weight_above_its_start(weight, floor, expected):
    agent = small_agent("qvpo", entropy_weight=weight, entropy_weight_min=floor)
    for progress in (1.0,) if floor == 0.0 else (0.0, 0.5, 1.0):
        assert agent.entropy_share(torch.tensor(progress)).item() == pytest.approx(expected)


def test_the_denoising_error_by_hand(draws):
    agent = agent_with(config={"denoising_steps": 4}, actor=KnownActor())
    action = torch.tensor([[[0.5, -0.5], [1.0, 0.0]], [[0.2, 0.3], [-1.0, 0.7]]])
    noise = torch.tensor([[[0.1, 3.0], [-0.2, 0.4]], [[1.1, -0.6], [0.0, 2.0]]])
    draws.uniform.append(torch.tensor([[0.0, 0.3], [0.6, 0.9999]]))
    draws.normal.append(noise)
    batch = random_batch(2)
    errors = agent.denoising_error(action, batch.obs)
    steps = [[0, 1], [2, 3]]
    for i in range(2):
        for j in range(2):
            bar = alpha_bar(steps[i][j], 4)
            squares = []
            for k in range(2):
                e = noise[i, j, k].item()
                squares.append((0.5 * (math.sqrt(bar) * action[i, j, k].item() + math.sqrt(1 - bar) * e) - e) ** 2)
            assert errors[i, j].item() == pytest.approx(sum(squares) / 2, rel=1e-4)
    _, time, state = agent.actor.asked[0]
    assert time.squeeze(-1).tolist() == steps
    assert state is batch.obs


def test_the_gradient_is_the_same_each_time_on_several_threads():
    agent = agent_with(config={"hidden": 128})
    action, obs = torch.zeros(11, 256, 2), torch.zeros(256, agent.obs_dim)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = set()
        for _ in range(12):
            torch.manual_seed(0)
            (gradient,) = torch.autograd.grad(agent.denoising_error(action, obs).sum(), agent.actor.of_time.weight)
            seen.add(gradient.numpy().tobytes())
    finally:
        torch.set_num_threads(before)
    assert len(seen) == 1


def alpha_bar(t, steps):
    """The product of 1 - beta up to t of the cosine schedule, whose betas are at most 0.999."""
    f = [math.cos((k / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(steps + 1)]
    return math.prod(max(f[k + 1] / f[k], 0.001) for k in range(t + 1))


def test_every_step_is_as_likely_to_be_learned(monkeypatch):
    agent = agent_with(config={"denoising_steps": 5})
    seen = []
    agent.diffusion.add_noise = lambda x, noise, t: seen.append(t) or x
    agent.denoising_error(torch.zeros(10, 1000, 2), torch.zeros(1000, 3))
    counts = torch.bincount(seen[0].flatten(), minlength=5)
    assert counts.shape == (5,)
    assert counts.tolist() == pytest.approx([2000] * 5, rel=0.1)
    monkeypatch.setattr(torch, "rand_like", torch.ones_like)  # as a draw just below one may round
    agent.denoising_error(torch.zeros(1, 1, 2), torch.zeros(1, 3))
    assert seen[1].item() == 4


def test_the_policys_loss_is_the_mean_over_best_and_uniform_actions_weighed_by_the_advantage(draws):
    agent = agent_with(
        SAMPLES,
        {"train_samples": 3, "entropy_samples": 2, "denoising_steps": 4, "entropy_weight": 0.2},
        actor=KnownActor(),
        critic=middle_is_best(),
        target_actor=NoActor(),
        target_critic=Stub(never),
    )
    uniform = torch.tensor([[[0.1, 0.9], [0.5, 0.25]], [[0.0, 1.0], [0.75, 0.6]]])
    draws.uniform += [uniform, 0.3]  # the second: step 1 of 4
    noise = torch.linspace(-1.0, 1.5, 12).reshape(3, 2, 2)
    draws.normal += [0.0, noise]  # the first: where the samples start
    batch = random_batch(2, progress=0.5)
    loss, diagnostics = agent.actor_loss(batch)

    advantage = [0.4 - (0.1 + 0.4 - 0.5) / 3, 0.5 - (0.25 - 0.2 + 0.5) / 3]
    weight = [1.0, 0.1, 0.1]  # of the best, and of uniform actions halfway through the training
    action = [BEST, *(2 * uniform - 1).tolist()]
    bar, total = alpha_bar(1, 4), 0.0
    for i in range(3):
        for j in range(2):
            for k in range(2):
                e = noise[i, j, k].item()
                x = math.sqrt(bar) * action[i][j][k] + math.sqrt(1 - bar) * e
                total += weight[i] * advantage[j] * (0.5 * x - e) ** 2
    assert loss.item() == pytest.approx(total / (3 * 2 * 2), rel=1e-5)
    assert diagnostics["advantage"].item() == pytest.approx(sum(advantage) / 2)
    assert diagnostics["entropy_share"].item() == pytest.approx(0.1)
    assert torch.equal(agent.critic.asked[0][0][0], batch.obs)


def test_uniform_actions_fill_the_range_of_actions():
    agent = agent_with(torch.zeros(3, 500, 2), {"train_samples": 3, "entropy_samples": 10}, critic=middle_is_best())
    seen = []
    agent.denoising_error = lambda action, obs: seen.append(action) or torch.zeros(action.shape[:-1])
    agent.actor_loss(random_batch(500))
    uniform = seen[0][1:]
    assert seen[0].shape == (11, 500, 2)
    assert (seen[0][0] == 0).all()
    assert uniform.min() == pytest.approx(-1.0, abs=0.01)
    assert uniform.max() == pytest.approx(1.0, abs=0.01)
    assert uniform.mean() == pytest.approx(0.0, abs=0.03)
    assert uniform.var() == pytest.approx(1 / 3, abs=0.02)


def test_samples_of_equal_value_teach_nothing():
    agent = agent_with(torch.full((3, 2, 2), 0.25), {"train_samples": 3}, critic=middle_is_best())
    assert agent.actor_loss(random_batch(2))[0].item() == pytest.approx(0.0, abs=1e-7)


def test_without_uniform_actions_the_loss_is_over_the_best_alone():
    agent = agent_with(SAMPLES, {"train_samples": 3, "entropy_samples": 0}, critic=middle_is_best())
    agent.denoising_error = lambda action, obs: torch.tensor([[2.0, 3.0]])
    loss, _ = agent.actor_loss(random_batch(2))
    assert loss.item() == pytest.approx((0.4 * 2.0 + (0.5 - 0.55 / 3) * 3.0) / 2)


# The update


def test_an_update_trains_critic_and_actor_then_tracks_both():
    agent, recorder = small_agent("qvpo", tau=0.3), Recorder()
    assert agent.period == 1
    agent.update(random_batch(), recorder, 0)
    assert recorder.calls == [
        ("minimise", "critic"),
        ("minimise", "actor"),
        ("track", "target_critic", "critic", 0.3),
        ("track", "target_actor", "actor", 0.3),
    ]


def test_each_part_has_its_learning_rate_and_both_are_clipped():
    agent = small_agent("qvpo", actor_lr=0.1, critic_lr=0.2, adam_eps=0.3, clip_norm=0.4)
    assert agent.optimisers() == {"actor": Adam(0.1, 0.3, 0.4), "critic": Adam(0.2, 0.3, 0.4)}


@pytest.mark.parametrize(("scale", "clipped"), [(1e5, True), (1e-3, False)])
@pytest.mark.parametrize("part", ["critic", "actor"])
def test_a_gradient_is_scaled_down_to_a_norm_of_two(part, scale, clipped):
    agent = small_agent("qvpo")
    real = getattr(agent, f"{part}_loss")
    raw, _ = real(random_batch())
    parameters = list(agent.get_submodule(part).parameters())
    unit = torch.cat([grad.flatten() for grad in torch.autograd.grad(raw, parameters)]).norm()
    torch.manual_seed(5)
    EagerLearner(agent, CPU).minimise(part, lambda batch: (real(batch)[0] * scale / unit, {}), random_batch())
    norm = torch.cat([parameter.grad.flatten() for parameter in parameters]).norm().item()
    assert norm == pytest.approx(2.0, rel=1e-4) if clipped else 0.0 < norm < 2.0


def test_the_policy_learns_the_action_of_highest_q():
    """A bandit with Q = -|a - (0.5, -0.5)|^2: training pulls the samples towards the best action."""
    agent = small_agent(
        "qvpo", hidden=32, actor_lr=1e-2, denoising_steps=5, train_samples=16, entropy_samples=1, batch_size=32
    )
    goal = torch.tensor([0.5, -0.5])
    agent.critic = Stub(lambda obs, action: -(action - goal).square().sum(-1).expand(2, *action.shape[:-1]))
    trained = dict(agent.optimisers())
    del trained["critic"]  # it is no network here
    agent.optimisers = lambda: trained

    def distance():
        action, _ = agent.best_of(1, torch.zeros(200, 3), agent.actor, agent.critic)
        return (action - goal).norm(dim=-1).mean().item()

    before, learner = distance(), EagerLearner(agent, CPU)
    for k in range(150):
        learner.minimise("actor", agent.actor_loss, random_batch(32, seed=k, progress=1.0))
    assert distance() < 0.5 * before
