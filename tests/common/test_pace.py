"""The estimate of the time left, against sums worked out by hand."""

from __future__ import annotations

import math

import pytest

from flowbench.common.pace import DECAY, Pace, time_left


def test_nothing_is_known_before_the_first_observation() -> None:
    assert Pace().seconds("hop", "td3", 100) is None


def test_task_then_algorithm_then_all_are_used() -> None:
    pace = Pace()
    pace.observe("hop", "td3", steps=10, seconds=5)
    pace.observe("walk", "td3", steps=10, seconds=20)
    assert pace.seconds("hop", "td3", 100) == pytest.approx(50)
    assert pace.seconds("walk", "td3", 100) == pytest.approx(200)
    # td3 on another task, then another algorithm: the mean of the steps, the later ones with the larger weight.
    mean = 100 * (DECAY * 5 + 20) / (DECAY * 10 + 10)
    assert pace.seconds("run", "td3", 100) == pytest.approx(mean)
    pace.observe("walk", "sac", steps=10, seconds=40)
    assert pace.seconds("run", "td3", 100) == pytest.approx(mean)
    assert pace.seconds("run", "sac", 100) == pytest.approx(400)
    both = (DECAY * (DECAY * 5 + 20) + 40) / (DECAY * (DECAY * 10 + 10) + 10)
    assert pace.seconds("run", "qvpo", 100) == pytest.approx(100 * both)


def test_old_observations_fade() -> None:
    pace = Pace()
    pace.observe("hop", "td3", steps=1, seconds=100)
    for _ in range(200):
        pace.observe("hop", "td3", steps=1, seconds=1)
    assert pace.seconds("hop", "td3", 10) == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize(("steps", "seconds"), [(0, 1), (-5, 1), (5, 0), (5, -1), (5, math.inf), (5, math.nan)])
def test_impossible_observations_are_ignored(steps: float, seconds: float) -> None:
    pace = Pace()
    pace.observe("hop", "td3", steps, seconds)
    assert pace.seconds("hop", "td3", 1) is None


@pytest.mark.parametrize(
    ("running", "waiting", "slots", "expected"),
    [
        ([], [], 2, 0.0),
        ([7.0], [], 2, 7.0),
        ([], [5, 5, 5], 1, 15.0),
        ([], [5, 1, 1, 1], 2, 5.0),  # three short ones concurrently with the long one
        ([], [1, 1, 1, 5], 2, 6.0),  # in their order: the long one comes last
        ([4.0, 1.0], [2, 2], 2, 5.0),  # both start in the slot that is free after 1 second
        ([4.0], [2, 2], 2, 4.0),  # the second slot is free at once
        ([4.0, 4.0, 4.0], [1], 2, 5.0),  # more run than there are slots now
    ],
)
def test_groups_start_in_their_order_when_a_slot_becomes_free(running, waiting, slots: int, expected: float) -> None:
    assert time_left(running, waiting, slots) == expected
