"""What the theory says that a sampler must give, whatever its implementation."""

import math

import pytest
import torch
from parity import normal

from algos.diffusion import Diffusion, cosine_betas


def exact_noise(steps, means, weights, deviation):
    """The noise model that is best for data from a mixture of round Gaussians: minus its noised score, rescaled."""
    alpha_bar = torch.cumprod(1.0 - cosine_betas(steps), dim=0)

    def model(x, t):
        bar = alpha_bar[t]
        variance = bar * deviation**2 + 1.0 - bar
        offset = x[..., None, :] - bar.sqrt() * means  # [..., modes, dim]
        share = (weights.log() - offset.square().sum(-1) / (2.0 * variance)).softmax(dim=-1)
        return (1.0 - bar).sqrt() * (share[..., None] * offset).sum(-2) / variance

    return model


def sampled(steps, samples, means, weights, deviation, monkeypatch):
    """Samples of the reverse chain, and of which mode each is nearest."""
    noises = (normal(f"mixture/{steps}/{k}", samples, means.shape[-1]) for k in range(steps + 1))
    start = next(noises)
    monkeypatch.setattr(torch, "randn_like", lambda x: next(noises))
    found = Diffusion(steps).denoise(exact_noise(steps, means, weights, deviation), start)
    return found, (found[:, None] - means).square().sum(-1).argmin(-1)


MEANS = torch.tensor([[-0.5, -0.4], [0.5, -0.3], [0.1, 0.6]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "of_weight", "of_mean", "of_deviation"), [(20, 0.025, 0.025, 0.35), (300, 0.012, 0.005, 0.07)]
)
def test_the_reverse_chain_finds_the_modes_and_weights_of_a_mixture(
    monkeypatch, steps, of_weight, of_mean, of_deviation
):
    """Each step is a Gaussian of too small a variance, the more so the fewer there are: twenty are the algorithm's."""
    deviation, samples = 0.1, 20_000
    found, nearest = sampled(steps, samples, MEANS, WEIGHTS, deviation, monkeypatch)
    for mode, (mean, weight) in enumerate(zip(MEANS, WEIGHTS, strict=True)):
        mine = found[nearest == mode]
        assert len(mine) / samples == pytest.approx(weight.item(), abs=of_weight)
        assert mine.mean(0).tolist() == pytest.approx(mean.tolist(), abs=of_mean)
        assert mine.std(0).tolist() == pytest.approx([deviation] * 2, rel=of_deviation)


@pytest.mark.slow
def test_a_mode_at_the_bound_is_cut_there_and_keeps_its_weight(monkeypatch):
    """Half the data is normal around 1, the bound of an action: the mean of min(data, 1) is 1 - s / sqrt(2 pi)."""
    means, deviation = torch.tensor([[-0.5], [1.0]], dtype=torch.float64), 0.1
    halves = torch.tensor([0.5, 0.5], dtype=torch.float64)
    found, nearest = sampled(300, 20_000, means, halves, deviation, monkeypatch)
    assert found.max() == 1.0
    assert nearest.double().mean().item() == pytest.approx(0.5, abs=0.012)
    assert found[nearest == 0].mean().item() == pytest.approx(-0.5, abs=0.005)
    assert found[nearest == 1].mean().item() == pytest.approx(1.0 - deviation / math.sqrt(2.0 * math.pi), abs=0.01)
