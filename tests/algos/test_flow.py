"""Integrators against equations with a known solution."""

import math

import pytest
import torch

from algos.flow import integrate, interpolate

SCHEMES = ["euler", "midpoint"]


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_interpolation_is_the_straight_path_from_start_to_end():
    start, end = torch.tensor([[2.0, -4.0]]), torch.tensor([[6.0, 4.0]])
    at = {t: interpolate(start, end, torch.tensor([[t]])).tolist() for t in (0.0, 0.25, 1.0)}
    assert at == {0.0: [[2.0, -4.0]], 0.25: [[3.0, -2.0]], 1.0: [[6.0, 4.0]]}


def test_interpolation_takes_a_time_for_each_row():
    start, end = torch.zeros(2, 3), torch.ones(2, 3)
    assert interpolate(start, end, torch.tensor([[0.1], [0.7]])).tolist() == [
        pytest.approx([t] * 3) for t in (0.1, 0.7)
    ]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_a_constant_field_is_integrated_exactly(scheme, steps):
    velocity = torch.tensor([0.5, -2.0], dtype=torch.float64)
    start = torch.randn(4, 2, dtype=torch.float64)
    end = integrate(lambda a, t: velocity.expand_as(a), start, steps, scheme)
    torch.testing.assert_close(end, start + velocity, rtol=0, atol=1e-14)


def test_the_midpoint_rule_is_exact_for_a_field_linear_in_time():
    end = integrate(lambda a, t: 6.0 * t, column(1.0), 1, "midpoint")
    assert end.item() == pytest.approx(1.0 + 3.0)


def test_one_euler_step_by_hand():
    # a + v(a, 0) with v = a + 10 t
    assert integrate(lambda a, t: a + 10.0 * t, column(3.0), 1, "euler").item() == pytest.approx(6.0)


def test_one_midpoint_step_by_hand():
    # halfway: 3 + 0.5 * 3 = 4.5; then 3 + v(4.5, 0.5) = 3 + 4.5 + 5
    assert integrate(lambda a, t: a + 10.0 * t, column(3.0), 1, "midpoint").item() == pytest.approx(12.5)


def test_two_euler_steps_by_hand():
    # 3 + 0.5 * 3 = 4.5; then 4.5 + 0.5 * (4.5 + 10 * 0.5) = 9.25
    assert integrate(lambda a, t: a + 10.0 * t, column(3.0), 2, "euler").item() == pytest.approx(9.25)


@pytest.mark.parametrize(("scheme", "order"), [("euler", 1), ("midpoint", 2)])
def test_halving_the_step_divides_the_error_by_two_to_the_order(scheme, order):
    start = column(0.7, -1.3)
    exact = start * math.exp(math.sin(1.0))  # da/dt = a cos t

    def error(steps):
        return (integrate(lambda a, t: a * t.cos(), start, steps, scheme) - exact).abs().max().item()

    assert math.log2(error(40) / error(80)) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(
    ("scheme", "times"),
    [("euler", [0.0, 0.25, 0.5, 0.75]), ("midpoint", [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875])],
)
def test_the_field_is_evaluated_once_a_step_by_euler_and_twice_by_midpoint(scheme, times):
    seen = []

    def velocity(a, t):
        assert t.shape == (5, 1)
        assert a.shape == (5, 2)
        seen.append(t[0].item())
        return torch.zeros_like(a)

    integrate(velocity, torch.zeros(5, 2), 4, scheme)
    assert seen == times


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_gradient_passes_through_every_step(scheme):
    start = column(0.7).requires_grad_()
    rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    integrate(lambda a, t: rate * a, start, 2, scheme).sum().backward()
    growth = {"euler": 1.5, "midpoint": 1.625}[scheme]  # of one step of 1/2: 1 + 1/2 (+ 1/8)
    assert start.grad.item() == pytest.approx(growth**2)
    slope = {"euler": 0.5, "midpoint": 0.75}[scheme]  # of that growth in the rate: 1/2 (+ 1/4)
    assert rate.grad.item() == pytest.approx(0.7 * 2 * growth * slope)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_start_is_not_changed_in_place(scheme):
    start = torch.ones(2, 2)
    integrate(lambda a, t: a, start, 2, scheme)
    assert start.tolist() == [[1.0, 1.0], [1.0, 1.0]]
