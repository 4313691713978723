"""Faster ways to compute torch's layers on a CPU, swapped into an agent once it is built.

Algorithm files use `nn.Linear` and `nn.Mish`. `install` gives such modules another class with the same parameters and
the same names, so initial weights and state_dicts do not change.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import repeat
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos.networks import RowWise
from flowbench.common import system

M = TypeVar("M", bound=nn.Module)
_LARGE = 2**23  # multiplications of a product above which oneDNN is faster in spite of its overhead
_BLOCK_ROWS = 2048  # rows whose hidden activations fit into the cache


def install(module: M, ours: bool = False) -> M:
    """Replace the layers of an agent's networks, in place, by those of this module.

    This applies to networks whose classes are defined in `algos`. Other networks keep torch's layers, because those of
    this module have no second derivative, which a gradient penalty needs. `ours` is for the recursion.
    """
    layer: nn.Module = module
    kind: Any = type(layer)
    package = kind.__module__.partition(".")[0]
    ours = package == "algos" or (ours and package == "torch")
    if ours and kind in FASTER:
        layer.__class__ = FASTER[kind]
    elif isinstance(layer, RowWise) and not isinstance(layer, _InBlocks):
        layer.__class__ = in_blocks(kind)
    for child in module.children():
        install(child, ours)
    return module


class Linear(nn.Linear):
    """`nn.Linear` that computes large products with oneDNN, where torch includes it.

    In single precision on a CPU torch uses MKL, which does not use AVX-512 on processors of other makers than Intel.
    oneDNN does and is up to twice as fast there; on Intel's own, MKL is up to 40 % faster (benchmarks/README.md). The
    sums are the same, added up in another order.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if not is_large(x, self.out_features):
            return F.linear(x, self.weight, self.bias)
        rows = x.reshape(-1, self.in_features)
        bias = None if self.bias is None else self.bias.detach()
        gradient = _WeightGradient.apply(rows.detach(), self.weight, self.bias) if torch.is_grad_enabled() else None  # type: ignore[no-untyped-call]
        y: Tensor = _Product.apply(rows, self.weight.detach(), bias, gradient)  # type: ignore[no-untyped-call]
        return y.reshape(*x.shape[:-1], self.out_features)


def is_large(x: Tensor, out_features: int) -> bool:
    """Whether oneDNN computes the product of x [..., in] and a weight [out, in] faster than torch does."""
    if x.numel() * out_features < _LARGE:
        return False
    return PREFERRED and x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def onednn_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias by oneDNN: x [B, in], weight [out, in], bias [out] -> [B, out]. Requires `ONEDNN`."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def _has_onednn() -> bool:
    """Whether this version of torch has the operator, which is private, with the arguments used here."""
    one = torch.ones(1, 1)
    try:
        return torch.equal(onednn_product(one, one), one)
    except (AttributeError, RuntimeError, TypeError):
        return False


ONEDNN = _has_onednn()
PREFERRED = ONEDNN and system.cpu_vendor() != "GenuineIntel"  # there MKL is faster


class _SeedBySeed(torch.autograd.Function):
    """A function that vmap computes for one seed after another."""

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], *args: Tensor | None) -> tuple[Tensor, int]:
        pairs = zip(args, in_dims, strict=True)
        columns = [[x] * info.batch_size if x is None or d is None else x.unbind(d) for x, d in pairs]
        return torch.stack([cls.apply(*seed) for seed in zip(*columns, strict=True)]), 0  # type: ignore[no-untyped-call]


class _Product(_SeedBySeed):
    """x weight^T + bias: x [B, in], weight [out, in], bias [out] or None -> [B, out].

    `_WeightGradient` computes the gradient of the weights. It is a node of its own in the graph because autograd can
    only skip whole nodes, and a policy's loss does not need the gradient of the critic's weights.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, gradient: Tensor | None) -> Tensor:
        return onednn_product(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        grad_x = _Product.apply(grad, weight.t(), None, None) if ctx.needs_input_grad[0] else None  # type: ignore[no-untyped-call]
        return grad_x, None, None, grad


class _WeightGradient(_SeedBySeed):
    """Uninitialised values in the shape of x weight^T + bias. Its backward pass computes the weights' gradient."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return x.new_empty(1).expand(len(x), len(weight))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return None, _Product.apply(grad.t(), x.t(), None, None), grad.sum(0) if ctx.needs_input_grad[2] else None  # type: ignore[no-untyped-call]


class Mish(nn.Mish):
    """`nn.Mish`, x tanh(softplus(x)), in a form that is three times as fast on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        if x.is_cuda:  # torch has one kernel for it there
            return F.mish(x)
        y: Tensor = _Mish.apply(x)  # type: ignore[no-untyped-call]
        return y


class _Mish(torch.autograd.Function):
    """x p (1 + s) / (1 + s^2) with p = sigmoid(x) and s = 1 - p: no exponential can overflow."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        p = x.sigmoid()
        s = 1.0 - p
        below = (s * s).add_(1.0)
        return p.mul_(x).mul_(s.add_(1.0)).div_(below)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        p = x.sigmoid()
        s = 1.0 - p
        slope = s * s
        below = slope + 1.0
        slope = torch.addcmul(p, slope.div_(below), p * x, value=4.0)
        return grad * torch.addcmul(slope, p, s).div_(below)


FASTER: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: Linear, nn.Mish: Mish}


class _InBlocks(RowWise):
    """Computes a `RowWise` network for a few samples at a time, so that activations between layers stay in the cache.

    This applies on a CPU, to inputs [n, B, ...] of n samples, where no gradient is needed.
    """

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """As the network itself; arguments with fewer dimensions than `x` are broadcast."""
        network: Callable[..., Tensor] = super().forward
        size = max(1, _BLOCK_ROWS // max(1, x.shape[1:-1].numel())) if x.ndim >= 3 else len(x)
        if len(x) <= size or x.device.type != "cpu" or torch.is_grad_enabled():
            return network(x, *others)
        split = [torch.split(each, size) if each.ndim == x.ndim else repeat(each) for each in (x, *others)]
        return torch.cat([network(*blocks) for blocks in zip(*split, strict=False)])


@functools.cache
def in_blocks(network: Any) -> Any:
    """The class of a `RowWise` network that is computed in blocks."""
    return type(network.__name__, (_InBlocks, network), {"__module__": network.__module__})
