"""Replay: what goes in comes out, the oldest leaves first, and each seed draws for itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from algos.agent import Config
from flowbench.replay import Replay

CPU = torch.device("cpu")


def make(seeds=(0,), steps=1000, **config) -> Replay:
    return Replay(seeds, 2, 1, Config(**{"batch_size": 64, **config}), steps, CPU)


def fill(replay: Replay, count: int, seeds: int = 1) -> None:
    """Transitions numbered from where the replay is: number n has n in all its parts, negated for the second seed."""
    sign = np.array([1.0, -1.0])[:seeds]
    for n in range(replay.added, replay.added + count):
        n_each = (sign * n).astype(np.float32)
        obs = np.stack([n_each, n_each + 0.25], axis=1)
        ended = np.full(seeds, n % 5 == 4)
        replay.add(obs, n_each[:, None] + 0.5, n_each, obs + 0.125, ended)


def numbers(replay: Replay, slot: int = 0, draws: int = 1) -> np.ndarray:
    return np.concatenate([replay.sample(torch.tensor(0.0))[slot].reward.numpy() for _ in range(draws)])


def test_a_transition_stays_whole() -> None:
    replay = make(replay_size=7)
    fill(replay, 11)
    (batch,) = replay.sample(torch.tensor(0.3))
    n = batch.reward
    assert batch.obs.shape == (64, 2)
    assert batch.action.shape == (64, 1)
    assert torch.equal(batch.obs[:, 0], n)
    assert torch.equal(batch.obs[:, 1], n + 0.25)
    assert torch.equal(batch.action[:, 0], n + 0.5)
    assert torch.equal(batch.next_obs, batch.obs + 0.125)
    assert torch.equal(batch.discount, 1.0 - (n % 5 == 4).float())
    assert batch.progress == pytest.approx(0.3)
    assert all(part.dtype == torch.float32 for part in batch)


def test_a_full_buffer_forgets_its_oldest() -> None:
    replay = make(replay_size=7)
    for added in range(1, 30):
        fill(replay, 1)
        assert replay.size == min(added, 7)
        assert set(numbers(replay, draws=4)) <= set(range(max(0, added - 7), added))
    assert set(numbers(replay, draws=10)) == set(range(22, 29))


def test_a_short_run_takes_no_more_room_than_its_steps() -> None:
    assert make(steps=10, replay_size=1_000_000).capacity == 10
    assert make(steps=10, replay_size=4).capacity == 4


@pytest.mark.parametrize("added", [3, 9, 10, 13, 20, 24, 37])
def test_the_recent_share_comes_from_the_recent_window_also_across_the_wrap(added: int) -> None:
    replay = make(replay_size=10, recent_share=0.25, recent_window=4, batch_size=64)
    fill(replay, added)
    recent = set(range(max(0, added - 4), added))
    held = set(range(max(0, added - 10), added))
    seen_recent: set[float] = set()
    seen: set[float] = set()
    for _ in range(20):
        (batch,) = replay.sample(torch.tensor(0.0))
        n = batch.reward.tolist()
        assert len(n) == 64
        assert set(n[48:]) <= recent  # 64 x 0.25 = 16 of them
        seen_recent |= set(n[48:])
        seen |= set(n[:48])
    assert seen_recent == recent
    assert seen == held


@pytest.mark.parametrize(("share", "recent"), [(0.0, 0), (0.5, 32), (0.2, 13), (1.0, 64)])
def test_how_many_of_a_batch_are_recent(share: float, recent: int) -> None:
    replay = make(recent_share=share, recent_window=1, batch_size=64)
    fill(replay, 1000)
    newest = (numbers(replay) == 999).sum()
    assert recent <= newest <= recent + 2  # an old one may be the newest by chance


def test_a_window_wider_than_what_is_held() -> None:
    replay = make(replay_size=5, recent_share=1.0, recent_window=2048)
    fill(replay, 3)
    assert set(numbers(replay, draws=4)) == {0, 1, 2}
    fill(replay, 6)
    assert set(numbers(replay, draws=4)) == {4, 5, 6, 7, 8}


def test_every_transition_is_drawn_about_as_often() -> None:
    replay = make(replay_size=10, batch_size=1000)
    fill(replay, 15)
    count = np.bincount(numbers(replay, draws=10).astype(int) - 5, minlength=10)
    assert len(count) == 10
    # Binomial(10000, 0.1) has a standard deviation of 30.
    assert (abs(count - 1000) < 150).all()


def test_a_seed_draws_the_same_alone_as_beside_others() -> None:
    together, alone, other = make(seeds=(3, 8)), make(seeds=(3,)), make(seeds=(8,))
    fill(together, 50, seeds=2)
    fill(alone, 50)
    fill(other, 50)
    for _ in range(3):
        of_3, of_8 = together.sample(torch.tensor(0.0))
        assert torch.equal(of_3.reward, alone.sample(torch.tensor(0.0))[0].reward)
        assert torch.equal(-of_8.reward, other.sample(torch.tensor(0.0))[0].reward)
        assert not torch.equal(of_3.reward, -of_8.reward)


def test_drawing_leaves_the_global_stream_alone() -> None:
    replay = make(recent_share=0.5)
    fill(replay, 5)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    replay.sample(torch.tensor(0.0))
    assert torch.equal(torch.rand(1), expected)


def test_what_was_added_is_a_copy() -> None:
    replay = make()
    obs, one = np.ones((1, 2), np.float32), np.ones(1, np.float32)
    replay.add(obs, one[None], one, obs, np.array([False]))
    obs[:] = 7
    one[:] = 7
    (batch,) = replay.sample(torch.tensor(0.0))
    assert all((part == 1).all() for part in batch[:-1])
