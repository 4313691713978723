"""Layers that compute what torch's do, and faster on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """`nn.Linear`, whose large products oneDNN computes where it is there.

    In single precision on a CPU torch asks MKL for them, which leaves AVX-512 unused on processors not made by Intel:
    oneDNN is twice as fast there. Same sums, in another order.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if x.numel() * self.out_features < _LARGE or not _for_onednn(x):
            return F.linear(x, self.weight, self.bias)
        rows = x.reshape(-1, self.in_features)
        bias = None if self.bias is None else self.bias.detach()
        gradient = _WeightGradient.apply(rows.detach(), self.weight, self.bias) if torch.is_grad_enabled() else None  # type: ignore[no-untyped-call]
        y: Tensor = _Product.apply(rows, self.weight.detach(), bias, gradient)  # type: ignore[no-untyped-call]
        return y.reshape(*x.shape[:-1], self.out_features)


def _for_onednn(x: Tensor) -> bool:
    return ONEDNN and x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def onednn_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias by oneDNN: x [B, in], weight [out, in], bias [out] -> [B, out]; only where `ONEDNN` is true."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def _has_onednn() -> bool:
    """Whether this torch has the product, which is none of its public functions, as it is called here."""
    one = torch.ones(1, 1)
    try:
        return torch.equal(onednn_product(one, one), one)
    except (AttributeError, RuntimeError, TypeError):
        return False


ONEDNN = _has_onednn()
_LARGE = 2**23  # multiplications from which oneDNN gains more than the detour costs


class _SeedBySeed(torch.autograd.Function):
    """A function that vmap computes for one seed after the other."""

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], *args: Tensor | None) -> tuple[Tensor, int]:
        pairs = zip(args, in_dims, strict=True)
        columns = [[x] * info.batch_size if x is None or d is None else x.unbind(d) for x, d in pairs]
        return torch.stack([cls.apply(*seed) for seed in zip(*columns, strict=True)]), 0  # type: ignore[no-untyped-call]


class _Product(_SeedBySeed):
    """x weight^T + bias: x [B, in], weight [out, in], bias [out] or None -> [B, out].

    The weights' gradient is left to `_WeightGradient`, a node of its own in the graph: autograd passes a whole node
    by when nobody asked for its gradients, as those of a critic's weights in a policy's loss.
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
    """Nothing, in the shape of x weight^T + bias; what flows back is the gradient of `weight` and `bias`."""

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
        if x.is_cuda:  # one kernel there
            return F.mish(x)
        y: Tensor = _Mish.apply(x)  # type: ignore[no-untyped-call]
        return y


class _Mish(torch.autograd.Function):
    """x p (1 + s) / (1 + s^2) with p = sigmoid(x) and s = 1 - p: no exponential that could overflow."""

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


def by_blocks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of x [n, B, ...], whose entries along n are independent; [n, ...].

    On a CPU it is given a few entries at a time: what it computes between its layers stays in the cache.
    """
    if x.device.type != "cpu":
        return function(x)
    return torch.cat([function(block) for block in x.split(max(1, _BLOCK_ROWS // x.shape[1]))])  # type: ignore[no-untyped-call]


_BLOCK_ROWS = 2048
