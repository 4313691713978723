"""Flow models: straight interpolation paths and integration of a velocity field. Pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""v(a_t, t): a_t [..., act_dim] and t [..., 1] to a velocity [..., act_dim]."""

Scheme = Literal["euler", "midpoint"]


def interpolate(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """The point at time t [..., 1] on the straight path from `start` to `end`, both [..., act_dim]."""
    return t * end + (1.0 - t) * start


def integrate(velocity: Velocity, start: Tensor, steps: int, scheme: Scheme) -> Tensor:
    """Solve da/dt = v(a, t) from t = 0 to 1 in `steps` equal steps, from `start` [..., act_dim]."""
    a = start
    for k in range(steps):
        a = advance(velocity, a, k / steps, 1.0 / steps, scheme)
    return a


def advance(velocity: Velocity, a: Tensor, time: float, dt: float, scheme: Scheme) -> Tensor:
    """One step of length `dt` from a [..., act_dim] at `time`.

    Euler evaluates the velocity once and is of first order; midpoint evaluates it twice and is of second order.
    """

    def euler(start: Tensor, at: Tensor, t: float, dt: float) -> Tensor:
        return torch.add(start, velocity(at, torch.full_like(at[..., :1], t)), alpha=dt)  # start + dt v(at, t)

    if scheme == "euler":
        return euler(a, a, time, dt)
    halfway = euler(a, a, time, 0.5 * dt)
    return euler(a, halfway, time + 0.5 * dt, dt)
