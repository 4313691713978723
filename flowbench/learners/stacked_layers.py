"""Layers of an agent that `StackedLearner` maps over seeds: one operation for all seeds instead of several.

vmap splits a linear layer or a layer norm with separate parameters for each seed into a product, multiplications and
sums. `install` gives the layers of an agent another class that computes the same for all seeds in one operation. It
also joins the two networks of a `TwinCritic`, so that each of their layers is computed once for both.

The results of all seeds are stored as [R, G, n] for R rows and G = seeds (or seeds x twins) and seen as [G, R, n].
Products accept this layout without a copy, and a layer norm of all seeds is a group norm over the G x n columns.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from algos.agent import Agent
from algos.networks import MLP, TwinCritic
from flowbench.learners import kernels

TWINS = 2
LINEAR = (nn.Linear, kernels.Linear)
ELEMENTWISE = (nn.ReLU, nn.ELU, nn.GELU, nn.Mish, kernels.Mish, nn.SiLU, nn.Tanh, nn.Identity)
JOINED = (*LINEAR, nn.LayerNorm, *ELEMENTWISE)  # the layers of twins that can be joined


def install(agent: Agent[Any]) -> dict[str, tuple[str, int]]:
    """Replace the layers of an agent, in place.

    Returns the parameters that are joined: for each name of a parameter of one twin the name of the parameter of both,
    which is [2, ...], and the index of the twin.
    """
    joined: dict[str, tuple[str, int]] = {}
    for name, module in list(agent.named_modules()):
        if type(module) is TwinCritic and _can_join(module) and not _has_part_in(agent, name):
            parent, _, child = name.rpartition(".")
            setattr(agent.get_submodule(parent), child, JoinedTwins(module))
            for twin, network in enumerate(("q1", "q2")):
                for parameter, _ in module.q1.named_parameters():
                    joined[f"{name}.{network}.{parameter}"] = f"{name}.both.{parameter}", twin
    for module in agent.modules():
        if type(module) in LINEAR:
            module.__class__ = Linear
        elif type(module) is nn.LayerNorm and len(module.normalized_shape) == 1 and module.elementwise_affine:
            module.__class__ = LayerNorm
    return joined


def _can_join(twins: TwinCritic) -> bool:
    """Whether both networks are the same sequence of layers that also work on inputs [2, ...]."""
    plain = (nn.Sequential, MLP, kernels.in_blocks(MLP))
    if type(twins.q1) not in plain or type(twins.q2) is not type(twins.q1):
        return False
    modules = [*twins.modules()]
    if any(module._forward_hooks or module._forward_pre_hooks for module in modules):
        return False
    # What is used twice has no place of its own in the joined network.
    uses = [len(q._modules) for q in (twins.q1, twins.q2)]
    parameters = [p for _, p in twins.named_parameters(remove_duplicate=False)]
    if len(modules) != 3 + sum(uses) or len(set(map(id, parameters))) < len(parameters):
        return False
    layers, others = list(twins.q1.children()), list(twins.q2.children())
    # Only these very classes: a subclass may compute something else.
    known = all(type(layer) in JOINED for layer in layers)
    # A description names the sizes, so equal descriptions have parameters of equal shapes.
    alike = (
        list(map(repr, layers)) == list(map(repr, others)) and len({p.requires_grad for p in twins.parameters()}) == 1
    )
    return known and type(layers[0]) in LINEAR and alike


def _has_part_in(agent: Agent[Any], name: str) -> bool:
    """Whether the agent trains or changes something inside this module by itself, or has it in another place too."""
    specs = agent.optimisers()
    projected = any(spec.project and f"{name}.".startswith(f"{part}.") for part, spec in specs.items())
    parts = [*specs, *(f"{part}.{rate}" for part, spec in specs.items() for rate in spec.rates)]
    inside = {id(parameter) for parameter in agent.get_submodule(name).parameters()}
    everywhere = agent.named_parameters(remove_duplicate=False)
    shared = any(id(parameter) in inside and not other.startswith(f"{name}.") for other, parameter in everywhere)
    return projected or shared or any(part.startswith(f"{name}.") for part in parts)


class JoinedTwins(nn.Module):
    """A `TwinCritic` whose parameters are stored as [2, ...]."""

    def __init__(self, twins: TwinCritic) -> None:
        super().__init__()
        self.both = nn.Sequential(*copy.deepcopy(list(twins.q1.children())))
        self.both[0].__class__ = FirstLinear

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """Both values, [2, ...], for obs [..., obs_dim] and action [..., act_dim]."""
        x = torch.cat([obs, action], dim=-1)
        values: Tensor = self.both(x) if _mapped_over_seeds() else torch.stack([self.q1(x), self.q2(x)])
        return values.squeeze(-1)

    def q1(self, x: Tensor) -> Tensor:
        """The first network alone: [..., obs_dim + act_dim] -> [..., 1]."""
        return self._alone(0, x)

    def q2(self, x: Tensor) -> Tensor:
        """The second network alone: [..., obs_dim + act_dim] -> [..., 1]."""
        return self._alone(1, x)

    def _alone(self, twin: int, x: Tensor) -> Tensor:
        both: dict[str, Tensor] = dict(self.both.named_parameters())
        for name, layer in self.both.named_children():
            cast = {each: getattr(layer, f"cast_{each}", None) for each in ("weight", "bias")}
            both |= {f"{name}.cast_{each}": tensor for each, tensor in cast.items() if tensor is not None}
        value: Tensor = functional_call(self.both, {name: tensor[twin] for name, tensor in both.items()}, x)
        return value


def _mapped_over_seeds() -> bool:
    """Whether the seeds' vmap is active and nothing else: a loss may use transforms of its own, such as `grad`."""
    return len(torch._C._functorch.get_interpreter_stack() or ()) == 1


class Linear(kernels.Linear):
    """`nn.Linear` for one seed, or for both twins: then the weight is [2, out, in] and the input is [2, ..., in]."""

    one_input = False
    called = False  # since somebody has set it to False
    cast_weight: Tensor | None = None  # in autocast's precision, if somebody has set them
    cast_bias: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        twins = self.weight.ndim == 3
        if not _mapped_over_seeds() or (not twins and kernels.is_large(x, self.out_features)):
            return super().forward(x)
        self.called = True
        weight = self.weight if self.cast_weight is None else self.cast_weight
        bias = self.bias if self.cast_bias is None else self.cast_bias
        y: Tensor = _Linear.apply(x, weight, bias, twins, self.one_input)  # type: ignore[no-untyped-call]
        return y


class FirstLinear(Linear):
    """The first layer of both twins, which have the same input [..., in]: one product for both."""

    one_input = True


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` over the last dimension, for one seed or for both twins [2, ..., n]."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., n] -> [..., n]."""
        if not _mapped_over_seeds():
            return super().forward(x)
        y: Tensor = _LayerNorm.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        return y


class _OfAllSeeds(torch.autograd.Function):
    """Gives access to the tensors of all seeds: only `vmap` is called, and it consists of differentiable operations."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Never called, but torch calls `vmap` only if it is defined."""


class _Linear(_OfAllSeeds):
    @staticmethod
    def vmap(
        info: Any, in_dims: Any, x: Tensor, weight: Tensor, bias: Tensor | None, twins: bool, one_input: bool
    ) -> tuple[Tensor, int]:
        x, weight, bias = _seeds_first(info.batch_size, in_dims, x, weight, bias)
        if dtype := autocast_dtype(x.device):
            x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        # With one input for both twins, one product has the outputs of both as neighbouring columns.
        groups = weight.shape[:2] if twins and not one_input else weight.shape[:1]
        rows, out = x.shape[len(groups) : -1], weight.shape[len(groups) : -1]
        g = groups.numel()
        bias = None if bias is None else bias.reshape(g, -1)
        y = _Product.apply(x.reshape(g, -1, x.shape[-1]), weight.reshape(g, -1, weight.shape[-1]), bias)  # type: ignore[no-untyped-call]
        y = y.view(*groups, *rows, *out)
        return (y.movedim(-2, 1) if twins and one_input else y), 0


class _LayerNorm(_OfAllSeeds):
    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> tuple[Tensor, int]:
        x, weight, bias = _seeds_first(info.batch_size, in_dims, x, weight, bias)
        if autocast_dtype(x.device):
            x = x.float()
        n = x.shape[-1]
        g = weight.numel() // n
        rows = x.reshape(g, -1, n).transpose(0, 1).reshape(-1, g * n)  # no copy of a result of `_Product`
        y = torch.group_norm(rows, g, weight.reshape(-1), None if bias is None else bias.reshape(-1), eps)
        return y.view(-1, g, n).transpose(0, 1).view(x.shape), 0


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The precision of products under autocast; None without autocast."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):  # torch rejects "meta" as a device type
        return None
    return torch.get_autocast_dtype(device.type)


def _seeds_first(seeds: int, dims: Sequence[int | None], *tensors: Tensor | None) -> list[Any]:
    """The tensors with the dimension of the seeds in front; a tensor that all seeds share is expanded."""
    return [
        tensor if tensor is None else tensor.movedim(dim, 0) if dim is not None else tensor.expand(seeds, *tensor.shape)
        for tensor, dim in zip(tensors, dims, strict=False)
    ]


class CastParameters:
    """Casts the parameters of all linear layers that a loss uses to autocast's precision, in one operation.

    A layer that is not known to be used casts its own parameters.
    """

    def __init__(self, agent: Agent[Any]) -> None:
        self._layers = {name: layer for name, layer in agent.named_modules() if isinstance(layer, Linear)}
        self._used: dict[str | None, list[str]] = {}  # the parameters that the loss of a part uses

    def __call__(self, part: str | None, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The cast parameters by name, for the loss of a part. None before the first `note`."""
        if part not in self._used:
            for layer in self._layers.values():
                layer.called = False
        if not (names := self._used.get(part)):
            return {}
        dtype = autocast_dtype(state[names[0]].device)
        cast = _CastAll.apply(dtype, *(state[name] for name in names))  # type: ignore[no-untyped-call]
        return {re.sub(r"(weight|bias)$", r"cast_\1", name): each for name, each in zip(names, cast, strict=True)}

    def note(self, part: str | None) -> None:
        """Remember which layers the loss of a part has just used."""
        if part not in self._used:
            called = [(name, layer) for name, layer in self._layers.items() if layer.called]
            self._used[part] = [f"{name}.{each}" for name, layer in called for each, _ in layer.named_parameters()]


class _CastAll(torch.autograd.Function):
    """Copies of tensors in another precision. Their gradients have the precision of the tensors."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        cast = tuple(torch.empty_like(tensor, dtype=dtype) for tensor in tensors)
        torch._foreach_copy_(list(cast), list(tensors))
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*itertools.compress(cast, (not tensor.requires_grad for tensor in tensors)))
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        return cast

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        found: list[Tensor | None] = [
            None if grad is None else torch.empty_like(grad, dtype=dtype)
            for grad, dtype in zip(grads, ctx.dtypes, strict=True)
        ]
        given = [grad for grad in grads if grad is not None]
        torch._foreach_copy_([each for each in found if each is not None], given)
        return None, *found


class _Product(torch.autograd.Function):
    """x weight^T + bias for each of G groups: x [G, R, in], weight [G, out, in], bias [G, out] or None.

    The result [G, R, out] is stored as [R, G, out].
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        rows, g, out = x.shape[1], len(x), weight.shape[1]
        y = x.new_empty(rows, g, out).transpose(0, 1) if out > 1 else x.new_empty(g, rows, out)
        if bias is None:
            return torch.bmm(x, weight.mT, out=y)
        return torch.baddbmm(bias[:, None], x, weight.mT, out=y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _Product.apply(grad, weight.mT, None) if of_x else None,  # type: ignore[no-untyped-call]
            torch.bmm(grad.mT, x) if of_weight else None,
            grad.sum(1) if of_bias else None,
        )
