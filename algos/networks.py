"""Networks that more than one algorithm uses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos.agent import Batch

M = TypeVar("M", bound=nn.Module)


class RowWise(nn.Module):
    """A network that maps every row on its own: [..., in] -> [..., out] for any number of batch dimensions."""


class MLP(RowWise, nn.Sequential):
    """A multilayer perceptron."""


def mlp(in_dim: int, hidden: int, out_dim: int, layers: int = 2, activation: Callable[[], nn.Module] = nn.ReLU) -> MLP:
    """A perceptron with `layers` hidden layers of `hidden` units: [..., in] -> [..., out]."""
    blocks: list[nn.Module] = []
    for width in [in_dim] + [hidden] * (layers - 1):
        blocks += [nn.Linear(width, hidden), activation()]
    return MLP(*blocks, nn.Linear(hidden, out_dim))


class TwinCritic(nn.Module):
    """Two independent networks for the action value Q(s, a) (clipped double Q, Fujimoto et al. 2018)."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        """`make` builds one network that maps [..., obs_dim + act_dim] to [..., 1]."""
        super().__init__()
        self.q1 = make()
        self.q2 = make()

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """Both values, [2, ...], for obs [..., obs_dim] and action [..., act_dim]."""
        x = torch.cat([obs, action], dim=-1)
        return torch.stack([self.q1(x), self.q2(x)]).squeeze(-1)


def td_target(batch: Batch, gamma: float, next_value: Tensor) -> Tensor:
    """reward + gamma discount next_value, all [B]."""
    return torch.addcmul(batch.reward, batch.discount, next_value, value=gamma)


def squared_error(q: Tensor, target: Tensor) -> Tensor:
    """Mean squared TD error, summed over the twins: q [2, B] against target [B]."""
    return F.mse_loss(q, target.expand_as(q), reduction="none").mean(dim=-1).sum()


def frozen_copy(module: M) -> M:
    """A copy that is never trained, for use as a target network."""
    return copy.deepcopy(module).requires_grad_(False)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Inside a loss: this module uses its running statistics and drops nothing out."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, training in modes:
            each.training = training


def noise_like(obs: Tensor, act_dim: int) -> Tensor:
    """Standard normal noise [..., act_dim] for obs [..., obs_dim], on the same device."""
    return torch.randn_like(obs[..., :1].expand(*obs.shape[:-1], act_dim))
