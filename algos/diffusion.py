"""Denoising diffusion: the noise schedule, the forward process and the reverse process. It contains no network.

Source: Ho et al., "Denoising Diffusion Probabilistic Models", 2020 (equation numbers are theirs), with the
cosine schedule of Nichol & Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021 (Eq. 17).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

NoiseModel = Callable[[Tensor, int], Tensor]
"""epsilon(x_t, t): noise [..., dim] predicted for x_t [..., dim] at step t in 0..T-1."""


def cosine_betas(steps: int, offset: float = 0.008) -> Tensor:
    """The variances beta_t [steps], float64, of the cosine schedule, at most 0.999."""
    x = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    alpha_bar = torch.cos((x + offset) / (1 + offset) * math.pi / 2).square()
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(0.0, 0.999)


class Diffusion(nn.Module):
    """Forward and reverse process over `steps` denoising steps; x0 lies in [-1, 1]."""

    sqrt_alpha_bar: Tensor
    sqrt_one_minus_alpha_bar: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        beta = cosine_betas(steps)
        alpha_bar = torch.cumprod(1 - beta, dim=0)
        alpha_bar_before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        self.register_buffer("sqrt_alpha_bar", alpha_bar.sqrt().float())
        self.register_buffer("sqrt_one_minus_alpha_bar", (1 - alpha_bar).sqrt().float())
        # In the reverse process t is the same for a whole batch, so these are plain numbers.
        variance = beta * (1 - alpha_bar_before) / (1 - alpha_bar)
        self._deviation = variance.clamp_min(1e-20).sqrt().tolist()
        self._x0_from_x = (1 / alpha_bar).sqrt().tolist()
        self._x0_from_noise = (1 / alpha_bar - 1).sqrt().tolist()
        self._mean_from_x0 = (beta * alpha_bar_before.sqrt() / (1 - alpha_bar)).tolist()
        self._mean_from_x = ((1 - alpha_bar_before) * (1 - beta).sqrt() / (1 - alpha_bar)).tolist()

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of Eq. 4 for x0 and noise [..., dim] at steps t [...] (long)."""
        return self.sqrt_alpha_bar[t].unsqueeze(-1) * x0 + self.sqrt_one_minus_alpha_bar[t].unsqueeze(-1) * noise

    def denoise(self, model: NoiseModel, x: Tensor) -> Tensor:
        """Run the reverse chain from x_T = `x` [..., dim] to x_0 in [-1, 1] (Algorithm 2)."""
        for t in reversed(range(self.steps)):
            x0 = (self._x0_from_x[t] * x - self._x0_from_noise[t] * model(x, t)).clamp(-1.0, 1.0)
            x = self._mean_from_x0[t] * x0 + self._mean_from_x[t] * x
            if t > 0:
                x = x + self._deviation[t] * torch.randn_like(x)
        return x.clamp(-1.0, 1.0)
