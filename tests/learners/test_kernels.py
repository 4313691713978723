"""The kernels compute the same as torch's layers: values, gradients, several seeds at once, extreme numbers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import algos
from algos.networks import RowWise, mlp
from flowbench.learners import kernels
from flowbench.learners.kernels import Linear, Mish


@pytest.fixture(autouse=True)
def on_any_processor(monkeypatch):
    """Use oneDNN also where MKL is preferred."""
    monkeypatch.setattr(kernels, "PREFERRED", kernels.ONEDNN)


def gradients(function, *inputs):
    """Value and gradients of a weighted sum of `function`'s answer, for leaves of the inputs."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    y = function(*leaves)
    weights = torch.linspace(-1.0, 2.0, y.numel(), dtype=y.dtype).reshape(y.shape)
    return [y.detach(), *torch.autograd.grad((weights * y).sum(), leaves)]


def through(layer):
    """A linear layer as a function of its input and parameters."""
    names = [name for name, _ in layer.named_parameters()]
    return lambda x, *tensors: torch.func.functional_call(layer, dict(zip(names, tensors, strict=True)), (x,))


@pytest.mark.parametrize("shape", [(128,), (4, 32), (1,), ()])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_is_torchs_large_or_small(shape, bias):
    layer = Linear(300, 260, bias=bias)  # large enough for oneDNN with 128 rows
    inputs = [torch.randn(*shape, 300), *layer.parameters()]
    torch.testing.assert_close(gradients(through(layer), *inputs), gradients(F.linear, *inputs), rtol=1e-4, atol=1e-4)


def test_a_linear_layer_of_many_seeds_is_that_of_each():
    layer = Linear(300, 260)
    function = through(layer)
    inputs = [torch.randn(3, 128, 300), torch.randn(3, 260, 300), torch.randn(3, 260)]
    square = torch.func.grad_and_value(lambda *args: function(*args).square().mean(), argnums=(0, 1, 2))
    found = torch.func.vmap(square)(*inputs)
    plain = torch.func.grad_and_value(lambda *args: F.linear(*args).square().mean(), argnums=(0, 1, 2))
    expected = [plain(*(x[k] for x in inputs)) for k in range(3)]
    for k, (grads, value) in enumerate(expected):
        torch.testing.assert_close(found[1][k], value)
        torch.testing.assert_close([grad[k] for grad in found[0]], list(grads), rtol=1e-4, atol=1e-6)
    shared = torch.func.vmap(function, in_dims=(0, None, None))(inputs[0], *layer.parameters())
    torch.testing.assert_close(shared, F.linear(inputs[0], *layer.parameters()), rtol=1e-4, atol=1e-5)


def test_no_unneeded_gradient_of_weights_is_computed():
    first, second = Linear(300, 260), Linear(260, 280)
    y = second(first(torch.randn(128, 300)).relu()).sum()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        torch.autograd.grad(y, list(first.parameters()))
    products = [event for event in profile.events() if event.name in ("mkldnn::_linear_pointwise", "aten::mm")]
    assert len(products) == 2  # through the second layer, and the first one's weights


def test_mish_is_torchs():
    x = torch.cat([torch.linspace(-120, 120, 40_001), torch.tensor([0.0, 1e-30, -1e-30])])
    value, grad = gradients(Mish(), x)
    exact, slope = gradients(F.mish, x.double())
    torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=1e-35)
    torch.testing.assert_close(grad.double(), slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mish_is_finite_for_the_largest_numbers(dtype):
    largest = torch.finfo(dtype).max
    value, grad = gradients(lambda x: Mish()(x) / largest, torch.tensor([largest, -largest, 1e4, -1e4], dtype=dtype))
    assert value[:2].tolist() == [1.0, 0.0]
    assert value.isfinite().all()
    assert grad.isfinite().all()


def test_mish_has_the_exact_gradient_in_double_precision():
    x = torch.linspace(-30, 30, 601, dtype=torch.float64)
    torch.testing.assert_close(gradients(Mish(), x), gradients(F.mish, x), rtol=1e-12, atol=1e-13)


def test_mish_of_many_seeds_is_that_of_each():
    x = torch.randn(3, 7)
    slope = torch.func.grad(lambda x: Mish()(x).square().sum())
    torch.testing.assert_close(torch.func.vmap(slope)(x), torch.stack([slope(row) for row in x]))


class Rows(RowWise):
    """A row-wise network that notes the sizes of the blocks it is given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, same, shared):
        self.seen.append(len(x))
        return (x + same + shared).sum(-1, keepdim=True)


@pytest.mark.parametrize(("n", "rows"), [(1, 5), (64, 100), (3, 5000)])
def test_blocks_together_are_the_whole(n, rows):
    network, x, shared = kernels.install(Rows()), torch.randn(n, rows, 2), torch.randn(rows, 2)
    with torch.no_grad():
        found = network(x, 2 * x, shared)
    torch.testing.assert_close(found, (3 * x + shared).sum(-1, keepdim=True))
    assert sum(network.seen) == n
    assert max(network.seen) == max(1, min(n, 2048 // rows))
    network.seen.clear()
    network(x, 2 * x, shared)  # with gradients, or without samples, in one piece
    network(x[0], x[0], shared)
    assert network.seen == [n, rows]


def test_installing_changes_classes_alone():
    agent = algos.find("qvpo").load()(3, 2, algos.find("qvpo").load().Config(hidden=8))
    before = {name: tensor.clone() for name, tensor in agent.state_dict().items()}
    critic = agent.critic
    assert kernels.install(kernels.install(agent)) is agent
    assert {name: tensor.tolist() for name, tensor in agent.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in before.items()
    }
    assert agent.critic is critic
    assert {type(module) for module in agent.modules() if isinstance(module, nn.Linear)} == {Linear}
    assert {type(module) for module in agent.modules() if isinstance(module, nn.Mish)} == {Mish}
    copied = copy.deepcopy(agent)
    assert type(copied.actor) is type(agent.actor) is not type(mlp(3, 8, 2))
    assert copied.actor.forward.__self__ is copied.actor


def test_a_linear_layer_keeps_to_autocast_and_other_types():
    layer, x = Linear(300, 260), torch.randn(128, 300)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64


def test_without_onednn_a_linear_layer_is_torchs(monkeypatch):
    monkeypatch.setattr(kernels, "PREFERRED", False)
    layer, x = Linear(300, 260), torch.randn(128, 300)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


def test_networks_of_other_packages_keep_torchs_layers():
    class Theirs(nn.Module):
        def __init__(self):
            super().__init__()
            self.own = nn.Sequential(nn.Linear(256, 256), nn.Mish(), nn.Linear(256, 1))
            self.shared = mlp(3, 4, 1)

    agent = kernels.install(Theirs())
    assert [type(layer) for layer in agent.own] == [nn.Linear, nn.Mish, nn.Linear]
    assert {type(layer) for layer in agent.shared.modules() if isinstance(layer, nn.Linear)} == {Linear}
    # A gradient penalty differentiates twice, at a size where the fast product would be used.
    x = torch.randn(256, 256, requires_grad=True)
    (slope,) = torch.autograd.grad(agent.own(x).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert agent.own[0].weight.grad.abs().sum() > 0
