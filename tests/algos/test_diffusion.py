"""The noise schedule and both processes against plain arithmetic."""

import itertools
import math

import pytest
import torch

from algos.diffusion import Diffusion, cosine_betas


def betas_by_hand(steps):
    """1 - f(t + 1) / f(t) with f(t) = cos^2((t / T + 0.008) / 1.008 * pi / 2), at most 0.999."""
    f = [math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(steps + 1)]
    return [min(1 - after / before, 0.999) for before, after in itertools.pairwise(f)]


def alpha_bars_by_hand(steps):
    product, products = 1.0, []
    for beta in betas_by_hand(steps):
        product *= 1 - beta
        products.append(product)
    return products


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 1000])
def test_the_cosine_schedule_is_its_formula(steps):
    betas = cosine_betas(steps)
    assert betas.shape == (steps,)
    assert betas.tolist() == pytest.approx(betas_by_hand(steps), rel=1e-9, abs=1e-15)


def test_the_cosine_schedule_at_four_steps_worked_out():
    # f(t / T) at t = 0 to 4: 0.999845, 0.846880, 0.493767, 0.144250, 0
    assert cosine_betas(4).tolist() == pytest.approx([0.152988, 0.416958, 0.707859, 0.999], abs=1e-5)


def test_noise_grows_over_the_schedule_and_is_never_all():
    betas = cosine_betas(20)
    assert (betas.diff() > 0).all()
    assert betas.min() > 0
    assert betas.max() == 0.999


def test_an_action_is_mixed_with_noise_by_hand():
    diffusion = Diffusion(5)
    t = torch.tensor([[0, 4], [2, 1]])
    x0 = torch.tensor([[[1.0, -0.5], [0.25, 0.0]], [[-1.0, 1.0], [0.5, 0.5]]])
    noise = torch.tensor([[[0.3, 2.0], [-1.0, 0.1]], [[0.0, -0.7], [1.5, -2.0]]])
    x = diffusion.add_noise(x0, noise, t)
    bars = alpha_bars_by_hand(5)
    for i in range(2):
        for j in range(2):
            bar = bars[t[i, j]]
            for k in range(2):
                by_hand = math.sqrt(bar) * x0[i, j, k].item() + math.sqrt(1 - bar) * noise[i, j, k].item()
                assert x[i, j, k].item() == pytest.approx(by_hand, abs=1e-6)


def test_signal_and_noise_have_unit_power_together():
    diffusion = Diffusion(20)
    power = diffusion.sqrt_alpha_bar.square() + diffusion.sqrt_one_minus_alpha_bar.square()
    torch.testing.assert_close(power, torch.ones(20))
    assert diffusion.sqrt_alpha_bar[-1] < 0.01  # the last step is all but noise


def chain_by_hand(steps, x, predict, noises):
    """The reverse chain on a number; each step is Bayes' rule for two Gaussians. Also how often x0 was clipped."""
    betas, bars, clipped = betas_by_hand(steps), alpha_bars_by_hand(steps), 0
    for t in reversed(range(steps)):
        x0 = (x - math.sqrt(1 - bars[t]) * predict(x, t)) / math.sqrt(bars[t])
        clipped += abs(x0) > 1
        x0 = max(-1.0, min(1.0, x0))
        if t == 0:
            return x0, clipped
        # before: N(sqrt(bar) x0, 1 - bar); seen through x_t = sqrt(1 - beta) x_(t-1) + sqrt(beta) noise
        bar, beta = bars[t - 1], betas[t]
        variance = 1 / (1 / (1 - bar) + (1 - beta) / beta)
        mean = variance * (math.sqrt(bar) * x0 / (1 - bar) + math.sqrt(1 - beta) * x / beta)
        x = mean + math.sqrt(variance) * noises[steps - 1 - t]
    raise AssertionError


@pytest.mark.parametrize(("start", "clipped"), [(1.7, 1), (0.02, 0)])
def test_the_reverse_chain_is_bayes_rule_step_by_step(draws, start, clipped):
    def predict(x, t):
        return x * (1.0 - 0.02 * (t + 1))

    noises = [0.5, -1.2, 0.1, 0.8]
    by_hand, clips = chain_by_hand(5, start, predict, noises)
    assert (clips > 0) == clipped  # so that both branches are seen
    draws.normal += noises  # none is drawn for the last step
    found = Diffusion(5).denoise(predict, torch.tensor([[start]], dtype=torch.float64))
    assert found.item() == pytest.approx(by_hand, abs=1e-9)


def test_a_noise_model_that_knows_the_action_brings_it_back():
    diffusion = Diffusion(20).double()
    action = torch.rand(6, 3, dtype=torch.float64) * 2 - 1

    def oracle(x, t):
        return (x - diffusion.sqrt_alpha_bar[t] * action) / diffusion.sqrt_one_minus_alpha_bar[t]

    found = diffusion.denoise(oracle, torch.randn(6, 3, dtype=torch.float64))
    torch.testing.assert_close(found, action, atol=1e-5, rtol=0)


def test_the_chain_samples_the_distribution_whose_noise_it_predicts():
    """Data N(0.2, 0.1^2): the best noise prediction is known in closed form."""
    diffusion, mean, deviation = Diffusion(400), 0.2, 0.1

    def best(x, t):
        root, spread = diffusion.sqrt_alpha_bar[t], diffusion.sqrt_one_minus_alpha_bar[t]
        return spread * (x - root * mean) / (root.square() * deviation**2 + spread.square())

    found = diffusion.denoise(best, torch.randn(20_000, 1))
    assert found.mean().item() == pytest.approx(mean, abs=0.01)
    assert found.std().item() == pytest.approx(deviation, rel=0.08)


def test_the_model_is_asked_for_every_step_from_the_noisiest_to_the_cleanest():
    seen = []

    def model(x, t):
        seen.append(t)
        return x

    Diffusion(4).denoise(model, torch.randn(2, 1))
    assert seen == [3, 2, 1, 0]


@pytest.mark.parametrize("noise", [-1e4, 1e4, 0.0])
def test_the_result_is_in_bounds_whatever_the_model_says(noise):
    found = Diffusion(20).denoise(lambda x, t: torch.full_like(x, noise), 3 * torch.randn(100, 2))
    assert found.abs().max() <= 1.0


def test_the_schedule_is_saved_and_is_not_trained():
    diffusion = Diffusion(3)
    assert set(diffusion.state_dict()) == {"sqrt_alpha_bar", "sqrt_one_minus_alpha_bar"}
    assert not list(diffusion.parameters())
