"""What an update needs at least, counted and not timed: floating-point operations and bytes of memory."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from algos.agent import Agent, Diagnostics, Loss
from flowbench.train.learner import invented_batch

VALUE = 4  # bytes of a float32: parameters are held in it whatever the products are computed in
# Values moved for a trained parameter: it, its gradient and Adam's two averages, each read and written.
MINIMISED = 8
TRACKED = 3  # for one of a moving average: it is read and written, the online one read


class Product(NamedTuple):
    """The sizes of a matrix product [m, k] x [k, n]."""

    m: int
    k: int
    n: int

    @property
    def flop(self) -> int:
        """Floating-point operations: a multiplication and an addition each."""
        return 2 * self.m * self.k * self.n

    def __str__(self) -> str:
        return f"{self.m}x{self.k}x{self.n}"


class Work(NamedTuple):
    """What an update of one seed needs, the mean over the phases of the agent."""

    flop: float  # of matrix products; the rest is not counted
    bytes: float  # parameters, gradients, the optimiser's averages and the batch, read and written once
    product: Product  # the sizes on which most of `flop` is spent
    resident: int  # bytes that all of these take, as opposed to move


def count(agent: Agent[Any], batch_size: int) -> Work:
    """The work of one agent's update on a batch of that size.

    Counted on torch's meta device, which computes nothing: it does not matter by which route the agent's layers
    compute their products.
    """
    agent = copy.deepcopy(agent).to("meta")
    batch = invented_batch(agent, torch.device("meta"), batch_size)
    learner = _Counting(agent)
    products: Counter[Product] = Counter()
    with FlopCounterMode(display=False, custom_mapping=_recording(products)) as counter:
        for phase in range(agent.period):
            agent.update(batch, learner, phase)
    of_batch = VALUE * sum(part.numel() for part in batch)
    trained = sum(p.numel() for p in agent.parameters() if p.requires_grad)
    held = sum(p.numel() for p in agent.parameters())
    return Work(
        flop=counter.get_total_flops() / agent.period,
        bytes=VALUE * learner.values / agent.period + 2 * of_batch,  # it comes from replay and is read
        product=max(products, key=lambda product: products[product]),
        resident=VALUE * (held + 3 * trained) + of_batch,
    )


class _Counting:
    """Computes losses and their gradients and steps nothing. Implements `algos.agent.Learner`."""

    def __init__(self, agent: Agent[Any]) -> None:
        self._agent = agent
        self.values = 0  # float32 values moved by optimisers and averages

    def minimise(self, part: str, loss: Loss, *args: Any) -> Diagnostics:
        parameters = [p for p in self._agent.get_submodule(part).parameters() if p.requires_grad]
        value, diagnostics = loss(*args)
        torch.autograd.grad(value, parameters)
        self.values += MINIMISED * sum(p.numel() for p in parameters)
        return {name: tensor.detach() for name, tensor in diagnostics.items()}

    def track(self, target: str, online: str, tau: float) -> None:
        self.values += TRACKED * sum(p.numel() for p in self._agent.get_submodule(target).parameters())


def _recording(products: Counter[Product]) -> dict[Any, Callable[..., int]]:
    """What torch's counter is to count matrix products with, so that their sizes are known too."""

    def record(a: tuple[int, ...], b: tuple[int, ...]) -> int:
        product = Product(a[-2], a[-1], b[-1])
        many = a[0] if len(a) == 3 else 1
        products[product] += many * product.flop
        return many * product.flop

    def first_two(a: Tensor, b: Tensor, *rest: Any, **more: Any) -> int:
        return record(a.shape, b.shape)

    def after_a_sum(start: Tensor, a: Tensor, b: Tensor, *rest: Any, **more: Any) -> int:
        return record(a.shape, b.shape)

    aten = torch.ops.aten
    mapping: dict[Any, Callable[..., int]] = {aten.mm: first_two, aten.bmm: first_two}
    mapping |= {aten.addmm: after_a_sum, aten.baddbmm: after_a_sum}
    for function in mapping.values():
        function._get_raw = True  # type: ignore[attr-defined]  # given tensors, and not their shapes
    return mapping
