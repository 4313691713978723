"""The networks and helpers that algorithms share."""

import pytest
import torch
from torch import nn

from algos.networks import TwinCritic, frozen_copy, mlp, noise_like, squared_error


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_perceptron_has_the_layers_asked_for(layers):
    net = mlp(3, 8, 2, layers=layers, activation=nn.Mish)
    linear = [module for module in net if isinstance(module, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(3, 8), *[(8, 8)] * (layers - 1), (8, 2)]
    assert sum(isinstance(module, nn.Mish) for module in net) == layers
    assert isinstance(net[-1], nn.Linear)
    assert net(torch.randn(4, 5, 3)).shape == (4, 5, 2)


def test_a_perceptron_has_two_layers_and_rectifiers_unless_told():
    assert [type(module) for module in mlp(3, 8, 2)] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]


def test_twin_critics_see_observation_and_action_and_have_weights_of_their_own():
    critic = TwinCritic(lambda: nn.Linear(3, 1))
    assert not torch.equal(critic.q1.weight, critic.q2.weight)
    with torch.no_grad():
        critic.q1.weight.copy_(torch.tensor([[1.0, 10.0, 100.0]]))
        critic.q1.bias.fill_(0.5)
        critic.q2.weight.zero_()
        critic.q2.bias.fill_(-7.0)
    q = critic(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[3.0], [4.0]]))
    assert q.tolist() == [[321.5, 410.5], [-7.0, -7.0]]


@pytest.mark.parametrize("shape", [(), (4,), (2, 4)])
def test_twin_critics_keep_the_leading_dimensions(shape):
    critic = TwinCritic(lambda: mlp(5, 8, 1))
    assert critic(torch.randn(*shape, 3), torch.randn(*shape, 2)).shape == (2, *shape)


def test_the_squared_error_is_a_mean_over_the_batch_and_a_sum_over_the_twins():
    q = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    target = torch.tensor([2.0, 4.0])
    assert squared_error(q, target).item() == pytest.approx((1 + 4) / 2 + (1 + 1) / 2)


def test_a_frozen_copy_is_equal_apart_and_never_trained():
    net = mlp(3, 8, 2)
    copied = frozen_copy(net)
    for own, other in zip(net.parameters(), copied.parameters(), strict=True):
        assert own.requires_grad
        assert not other.requires_grad
        assert torch.equal(own, other)
        assert own.data_ptr() != other.data_ptr()


def test_noise_has_the_shape_of_actions_and_the_type_of_observations():
    obs = torch.zeros(2, 5, 3, dtype=torch.float64)
    noise = noise_like(obs, 4)
    assert noise.shape == (2, 5, 4)
    assert noise.dtype == torch.float64
    assert noise.unique().numel() == noise.numel()  # no two share a draw


def test_noise_is_standard_normal():
    noise = noise_like(torch.zeros(20_000, 1), 2)
    assert noise.mean(0).tolist() == pytest.approx([0.0, 0.0], abs=0.03)
    assert noise.std(0).tolist() == pytest.approx([1.0, 1.0], abs=0.03)
    assert abs((noise[:, 0] * noise[:, 1]).mean().item()) < 0.03
