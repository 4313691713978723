"""FlashSAC against numbers worked out by hand; `test_parity_flashsac.py` compares it with the authors' code."""

import math

import pytest
import torch
from handmade import ACT_DIM, OBS_DIM, random_batch, small_agent
from torch import nn

from algos.flashsac import FlashSACConfig, Norm, half_cosine
from flowbench.learners.learner import EagerLearner

CPU = torch.device("cpu")


def agent(**values):
    return small_agent("flashsac", **values)


def test_an_atom_moves_and_its_probability_goes_to_the_two_nearest():
    made = agent(atoms=5, max_return=2.0, gamma=0.5)  # atoms at -2, -1, 0, 1, 2
    probs = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0]])
    one = torch.ones(1)
    # 0.1 + 0.5 (2 - 0.4) = 0.9: a tenth to 0, the rest to 1.
    target = made.target_probs(probs, 0.1 * one, one, 0.4 * one)
    torch.testing.assert_close(target, torch.tensor([[0.0, 0.0, 0.1, 0.9, 0.0]]))
    # A true end leaves the reward.
    target = made.target_probs(probs, -1.25 * one, 0.0 * one, 0.4 * one)
    torch.testing.assert_close(target, torch.tensor([[0.25, 0.75, 0.0, 0.0, 0.0]]))
    # Beyond the last atom all goes to it.
    target = made.target_probs(probs, 9.0 * one, one, one)
    torch.testing.assert_close(target, torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0]]))


def test_targets_are_distributions_with_the_right_mean():
    made = agent(atoms=101)
    probs = torch.rand(64, 101).softmax(-1)
    reward, cost = 0.5 * torch.randn(64), 0.1 * torch.randn(64)
    target = made.target_probs(probs, reward, torch.ones(64), cost)
    torch.testing.assert_close(target.sum(-1), torch.ones(64))
    assert (target >= 0).all()
    narrow = torch.zeros(64, 101).index_fill_(1, torch.tensor([50]), 1.0)  # all at zero, so nothing is cut off
    found = (made.target_probs(narrow, reward, torch.ones(64), cost) * made.critic.support).sum(-1)
    torch.testing.assert_close(found, reward - 0.99 * cost, atol=1e-5, rtol=1e-5)


def test_noise_is_held_for_as_many_steps_as_zeta_says():
    torch.manual_seed(0)
    learner = EagerLearner(agent(), CPU)
    obs = torch.zeros(4000, OBS_DIM)
    memory = learner.first_memory(obs)
    action, memory = learner.act_with_memory(obs, True, memory)
    held = memory["left"].squeeze(1) + 1.0
    weights = torch.arange(1.0, 17.0) ** -2.0
    expected = weights / weights.sum()
    found = torch.stack([(held == n).float().mean() for n in range(1, 17)])
    assert (found - expected).abs().max() < 0.03
    again, memory = learner.act_with_memory(obs, True, memory)
    same = (again == action).all(-1)
    assert torch.equal(same, held > 1)
    assert torch.equal(learner.act(obs, False), learner.act(obs, False))


def test_weights_and_gains_keep_their_size():
    made = agent()
    learner = EagerLearner(made, CPU)
    for k in range(3):
        learner.update(random_batch(seed=k))
    for network in (made.actor, made.critic):
        for layer in network.modules():
            if isinstance(layer, nn.Linear):
                torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(len(layer.weight)))
            elif isinstance(layer, Norm):
                size = layer.weight.square().sum() + layer.bias.square().sum()
                torch.testing.assert_close(size, torch.tensor(float(len(layer.weight))))


def test_rewards_are_divided_by_the_larger_of_two_scales():
    scale = agent().reward_scale
    for reward, ended in ((1.0, 0.0), (3.0, 0.0), (-2.0, 1.0)):
        scale.observe(torch.tensor(reward), torch.tensor(ended), gamma=0.5)
    totals = [1.0, 3.5, -2.0]  # the last step restarts the sum
    assert scale.mean.item() == pytest.approx(sum(totals) / 3)
    assert scale.largest.item() == 3.5
    deviation = math.sqrt(sum((total - sum(totals) / 3) ** 2 for total in totals) / 3)
    assert scale(torch.ones(1), 5.0).item() == pytest.approx(1.0 / deviation, rel=1e-3)
    assert scale(torch.ones(1), 0.5).item() == pytest.approx(0.5 / 3.5)


def test_the_rate_ends_at_half_and_that_of_the_actor_counts_its_own_updates():
    ends = {part: spec.schedule(torch.tensor(1.0)).item() for part, spec in agent().optimisers().items()}
    assert ends == pytest.approx({"critic": 0.5, "actor": 0.75, "temperature": 0.75})
    assert half_cosine(torch.tensor(0.0)) == 1.0


def test_the_actor_is_updated_in_every_second_update_and_before_the_critic():
    made = agent()
    learner = EagerLearner(made, CPU)
    learner.update(random_batch())
    before = [parameter.clone() for parameter in made.actor.parameters()]
    learner.update(random_batch(seed=1))
    assert all(map(torch.equal, before, made.actor.parameters()))


def test_the_target_entropy_is_that_of_a_narrow_normal_distribution():
    expected = ACT_DIM * torch.distributions.Normal(0.0, 0.15).entropy().item()
    assert agent().target_entropy == pytest.approx(expected)
    assert FlashSACConfig().target_std == 0.15
