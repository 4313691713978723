"""Replay: what goes in comes out, the oldest leaves first, and each seed draws for itself."""

from __future__ import annotations

import fake_cuda
import numpy as np
import pytest
import torch

from algos.agent import Batch, Config
from flowbench.common.rng import stream_seed
from flowbench.train.replay import BLOCK, SHORT_EPISODE, Replay

CPU = torch.device("cpu")


def make(seeds=(0,), steps=1000, obs_dim=2, act_dim=1, device=CPU, **config) -> Replay:
    return Replay(seeds, obs_dim, act_dim, Config(**{"batch_size": 64, **config}), steps, device)


def fill(replay: Replay, count: int, seeds: int = 1) -> None:
    """Transitions numbered from where the replay is: number n has n in all its parts, negated for the second seed.

    Episodes have five steps; they end for good and by the time limit in turn.
    """
    sign = np.array([1.0, -1.0])[:seeds, None]
    for n in range(replay.added, replay.added + count):
        obs, following = sign * [n, n + 0.25], sign * [n + 1, n + 1.25]
        next_obs = obs + 0.125 if n % 5 == 4 else following
        terminated, truncated = np.full(seeds, n % 10 == 4), np.full(seeds, n % 10 == 9)
        replay.add(obs, sign * n + 0.5, sign[:, 0] * n, next_obs, terminated, truncated)


def numbers(replay: Replay, index: int = 0, draws: int = 1) -> np.ndarray:
    return np.concatenate([replay.sample(0.0).reward[index].numpy() for _ in range(draws)])


class Model:
    """The same as Replay, as plainly as can be: every transition ever added, whole, with made-up content."""

    def __init__(self, seeds: int, obs_dim: int, act_dim: int, end: float, rng: np.random.Generator) -> None:
        self.obs_dim, self.act_dim, self.end, self.rng = obs_dim, act_dim, end, rng
        self.seen = self._normal(seeds, obs_dim)  # what the next transition begins with
        self.transitions: list[tuple[np.ndarray, ...]] = []  # obs, action, next_obs, discount, each [S, ...]

    def _normal(self, *shape: int) -> np.ndarray:
        return self.rng.normal(size=shape).astype(np.float32)

    def step(self, *replays: Replay) -> None:
        """Add one transition a seed, whose reward is its number; each episode may end, either way."""
        seeds, obs = len(self.seen), self.seen
        action, next_obs = self._normal(seeds, self.act_dim), self._normal(seeds, self.obs_dim)
        terminated, truncated = self.rng.random((2, seeds)) < self.end
        reward = np.full(seeds, len(self.transitions), np.float32)
        self.transitions.append((obs, action, next_obs, np.where(terminated, 0.0, 1.0)))
        for replay in replays:
            replay.add(obs, action, reward, next_obs, terminated, truncated)
        self.seen = np.where((terminated | truncated)[:, None], self._normal(seeds, self.obs_dim), next_obs)

    def check(self, replay: Replay, batch: Batch) -> set[int]:
        """Every transition of the batch is one that is held, part by part; the numbers that were in it."""
        number = batch.reward.long().cpu().numpy()
        oldest = max(0, len(self.transitions) - replay.capacity)
        assert (number >= oldest).all()
        assert (number < len(self.transitions)).all()
        obs, action, next_obs, discount = (np.stack(part) for part in zip(*self.transitions[oldest:], strict=True))
        which = (number - oldest, np.arange(len(number))[:, None])
        np.testing.assert_array_equal(batch.obs.cpu(), obs[which])
        np.testing.assert_array_equal(batch.action.cpu(), action[which])
        np.testing.assert_array_equal(batch.next_obs.cpu(), next_obs[which])
        np.testing.assert_array_equal(batch.discount.cpu(), discount[which])
        return set(number.flatten().tolist())


def test_a_transition_stays_whole() -> None:
    replay = make(replay_size=7)
    fill(replay, 11)
    batch = replay.sample(0.3)
    n = batch.reward[0]
    assert batch.obs.shape == batch.next_obs.shape == (1, 64, 2)
    assert batch.action.shape == (1, 64, 1)
    assert batch.reward.shape == batch.discount.shape == (1, 64)
    assert torch.equal(batch.obs[0, :, 0], n)
    assert torch.equal(batch.obs[0, :, 1], n + 0.25)
    assert torch.equal(batch.action[0, :, 0], n + 0.5)
    assert torch.equal(batch.next_obs, batch.obs + torch.where(n % 5 == 4, 0.125, 1.0)[:, None])
    assert torch.equal(batch.discount[0], 1.0 - (n % 10 == 4).float())
    assert batch.progress.tolist() == pytest.approx([0.3])
    assert all(part.dtype == torch.float32 for part in batch)


@pytest.mark.parametrize("end", [0.0, 0.03, 0.3, 1.0])
@pytest.mark.parametrize(("capacity", "steps"), [(1, 30), (2, 30), (3, 50), (7, 100), (40, 150), (110, 90)])
def test_like_a_list_of_transitions(capacity: int, steps: int, end: float) -> None:
    rng = np.random.default_rng([capacity, int(100 * end)])
    seeds = int(rng.integers(1, 4))
    replay = make(range(seeds), obs_dim=3, act_dim=2, replay_size=capacity, batch_size=3 * capacity)
    model = Model(seeds, 3, 2, end, rng)
    seen: set[int] = set()
    for step in range(1, steps + 1):
        model.step(replay)
        seen |= model.check(replay, replay.sample(0.0))
        assert (replay.added, replay.size) == (step, min(step, capacity))
    assert seen == set(range(steps))


def test_seeds_whose_episodes_end_at_different_times() -> None:
    """Seed 0 ends every step, seed 1 never, seed 2 twice: their finals are each their own."""
    replay = make((0, 1, 2), obs_dim=1, replay_size=4, batch_size=32)
    for n in range(11):
        third = 100 if n < 3 else 200 if n < 9 else 300  # by episode
        obs = np.array([[10.0 * n], [n], [third + n]])
        end = np.array([True, False, n in (2, 8)])
        next_obs = np.where(end[:, None], -obs, obs + 1.0)
        replay.add(obs, np.zeros((3, 1)), np.full(3, n), next_obs, end & (n % 2 == 0), end & (n % 2 == 1))
        batch = replay.sample(0.0)
        number, (obs_0, obs_1, obs_2) = batch.reward, batch.obs[..., 0]
        next_0, next_1, next_2 = batch.next_obs[..., 0]
        assert torch.equal(next_0, -obs_0)
        assert torch.equal(next_1, obs_1 + 1.0)
        ended = (number[2] == 2) | (number[2] == 8)
        assert torch.equal(next_2, torch.where(ended, -obs_2, obs_2 + 1.0))
        assert torch.equal(batch.discount[0], number[0] % 2)
        assert (batch.discount[1] == 1).all()
        assert torch.equal(batch.discount[2], 1.0 - ended.float())


def test_finals_grow_when_there_are_many_and_are_used_again() -> None:
    replay = make((0, 1), obs_dim=3, act_dim=2, replay_size=150, batch_size=600)
    rng = np.random.default_rng(0)
    model = Model(2, 3, 2, 0.0, rng)
    sizes = []
    for end in (0.0, 0.3, 1.0, 0.02, 1.0):  # each for more steps than are held
        model.end = end
        for _ in range(170):
            model.step(replay)
        model.check(replay, replay.sample(0.0))
        sizes.append(replay.nbytes)
    assert sizes[0] == Replay.bytes_needed((0, 1), 3, 2, Config(replay_size=150), 1000)
    assert sizes[0] < sizes[1] < sizes[2]
    assert sizes[2] - sizes[0] <= 2 * 150 * 4 * 4  # two seeds, at most one final a transition, of 3 + 1 numbers
    assert sizes[2] == sizes[3] == sizes[4]


def test_episodes_that_are_not_short_need_no_growth() -> None:
    replay = make(replay_size=10 * SHORT_EPISODE)
    before = replay.nbytes
    zero = np.zeros((1, 2))
    for n in range(30 * SHORT_EPISODE):
        end = np.array([n % SHORT_EPISODE == 0])
        replay.add(zero, zero[:, :1], zero[:, 0], zero, end, ~end & False)
    assert replay.nbytes == before


@pytest.mark.parametrize(
    ("obs_dim", "act_dim", "share"),
    [(223, 38, 0.55), (67, 21, 0.58), (17, 6, 0.6), (5, 1, 0.63), (3, 1, 0.68)],  # few observations save less
)
def test_memory_a_transition(obs_dim: int, act_dim: int, share: float) -> None:
    steps = 1_000_000
    both_observations = 4 * (2 * obs_dim + act_dim + 2)
    needed = Replay.bytes_needed((0, 1), obs_dim, act_dim, Config(), steps)
    episodes = steps // SHORT_EPISODE
    slots, finals = steps + 1, episodes + 1
    assert needed == 2 * 4 * (slots * (obs_dim + act_dim + 2) + finals * (obs_dim + 1))
    assert needed < share * 2 * steps * both_observations


def test_bytes_needed_are_the_bytes_of_the_replay() -> None:
    config = Config(replay_size=500)
    replay = Replay((0, 1, 2), 5, 2, config, 10_000, CPU)
    assert replay.nbytes == Replay.bytes_needed((0, 1, 2), 5, 2, config, 10_000)
    assert replay.nbytes == 3 * Replay.bytes_needed((0,), 5, 2, config, 10_000)


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


def test_there_must_be_something_to_draw() -> None:
    with pytest.raises(ValueError, match="no transition"):
        make().sample(0.0)


@pytest.mark.parametrize("added", [3, 9, 10, 13, 20, 24, 37])
def test_the_recent_share_comes_from_the_recent_window_also_across_the_wrap(added: int) -> None:
    replay = make(replay_size=10, recent_share=0.25, recent_window=4, batch_size=64)
    fill(replay, added)
    recent = set(range(max(0, added - 4), added))
    held = set(range(max(0, added - 10), added))
    seen_recent: set[float] = set()
    seen: set[float] = set()
    for _ in range(20):
        n = replay.sample(0.0).reward[0].tolist()
        assert len(n) == 64
        assert set(n[48:]) <= recent  # 64 x 0.25 = 16 of them
        seen_recent |= set(n[48:])
        seen |= set(n[:48])
    assert seen_recent == recent
    assert seen == held


@pytest.mark.parametrize(
    ("share", "batch_size", "recent"), [(0.0, 64, 0), (0.5, 64, 32), (0.2, 64, 13), (1.0, 64, 64), (0.9, 100, 90)]
)
def test_how_many_of_a_batch_are_recent(share: float, batch_size: int, recent: int) -> None:
    replay = make(recent_share=share, recent_window=1, batch_size=batch_size)
    fill(replay, 1000)
    newest = numbers(replay) == 999
    assert len(newest) == batch_size
    assert newest[batch_size - recent :].all()
    assert newest[: batch_size - recent].sum() <= 2  # an old one may be the newest by chance
    assert recent == batch_size or not newest[batch_size - recent - 1]


def test_a_window_wider_than_what_is_held() -> None:
    replay = make(replay_size=5, recent_share=1.0, recent_window=2048)
    fill(replay, 3)
    assert set(numbers(replay, draws=4)) == {0, 1, 2}
    fill(replay, 6)
    assert set(numbers(replay, draws=4)) == {4, 5, 6, 7, 8}


@pytest.mark.parametrize(("recent_share", "oldest"), [(0.0, 5), (1.0, 11)])
def test_every_transition_is_drawn_about_as_often(recent_share: float, oldest: int) -> None:
    replay = make(replay_size=10, batch_size=1000, recent_share=recent_share, recent_window=4)
    fill(replay, 15)
    count = np.bincount(numbers(replay, draws=10).astype(int))[oldest:]
    assert len(count) == 15 - oldest
    assert count.sum() == 10_000
    share = 1 / len(count)
    # A count is Binomial(10000, share), with a standard deviation of 30 or 43.
    assert (abs(count - 10_000 * share) < 5 * np.sqrt(10_000 * share * (1 - share))).all()


def test_the_draws_are_the_stream_of_the_seed_from_block_to_block() -> None:
    """Worked out again from the numbers of the stream: the share u of what is held, counted from the newest."""
    replay = make(seeds=(3, 8), replay_size=10, batch_size=8, recent_share=0.25, recent_window=3)
    generator = torch.Generator().manual_seed(stream_seed(8, "replay"))
    for step in range(2 * BLOCK + 3):
        fill(replay, 1, seeds=2)
        uniform = torch.rand(8, generator=generator, dtype=torch.float64).numpy()
        age = np.floor(uniform * np.array([min(step + 1, 10)] * 6 + [min(step + 1, 3)] * 2))
        np.testing.assert_array_equal(-numbers(replay, index=1), step - age)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 1000, 999_983])
def test_the_greatest_and_the_least_draw_are_still_held(size: int) -> None:
    replay = make(steps=size, obs_dim=1, batch_size=2)
    replay.added = replay.size = size  # as if so many had been added
    replay._uniforms[..., 0], replay._uniforms[..., 1] = 0.0, np.nextafter(1.0, 0.0)
    replay._used = 0
    assert replay._draw().tolist() == [[size - 1, 0]]


def test_a_seed_draws_the_same_alone_and_in_a_group() -> None:
    together, alone, other = make(seeds=(3, 8)), make(seeds=(3,)), make(seeds=(8,))
    fill(together, 50, seeds=2)
    fill(alone, 50)
    fill(other, 50)
    for _ in range(BLOCK + 3):
        of_3, of_8 = together.sample(0.0).reward
        assert torch.equal(of_3, alone.sample(0.0).reward[0])
        assert torch.equal(-of_8, other.sample(0.0).reward[0])
        assert not torch.equal(of_3, -of_8)


def test_drawing_leaves_the_global_stream_alone() -> None:
    replay = make(recent_share=0.5)
    fill(replay, 5)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    replay.sample(0.0)
    assert torch.equal(torch.rand(1), expected)


def test_what_was_added_is_a_copy() -> None:
    replay = make()
    obs, one, end = np.ones((1, 2), np.float32), np.ones(1, np.float32), np.array([False])
    replay.add(obs, one[None], one, obs, end, end)
    obs[:] = 7
    one[:] = 7
    batch = replay.sample(0.0)
    assert all((part == 1).all() for part in batch[:-1])


def test_what_was_drawn_is_a_copy() -> None:
    replay = make(replay_size=5)
    fill(replay, 8)
    for part in replay.sample(0.0):
        part.fill_(-1.0)
    assert set(numbers(replay, draws=4)) == {3, 4, 5, 6, 7}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_same_is_drawn_and_nothing_waits_for_it() -> None:
    device = torch.device("cuda")
    sizes = {"seeds": (0, 1), "obs_dim": 3, "act_dim": 2, "replay_size": 20, "recent_share": 0.5, "recent_window": 4}
    replay, on_cpu = make(**sizes, device=device), make(**sizes)
    model = Model(2, 3, 2, 0.3, np.random.default_rng(0))
    batches = []
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2 * BLOCK):
            model.step(replay, on_cpu)
            batches.append((replay.sample(0.25), on_cpu.sample(0.25)))
    finally:
        torch.cuda.set_sync_debug_mode(before)
    for batch, expected in batches:
        assert all(part.device.type == "cuda" for part in batch)
        assert all(torch.equal(part.cpu(), other) for part, other in zip(batch, expected, strict=True))
    model.check(replay, batches[-1][0])


def test_a_batch_needs_few_operations_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_cuda.install(monkeypatch) as cuda:
        replay = make((0, 1), obs_dim=3, act_dim=2, recent_share=0.5, recent_window=4, device=fake_cuda.DEVICE)
        model = Model(2, 3, 2, 0.3, np.random.default_rng(0))
        for _ in range(8):
            model.step(replay)
        replay.sample(0.5)
        names: list[str] = []
        compute = cuda.compute

        def counted(function, arguments, keywords):
            result = compute(function, arguments, keywords)
            if not function.is_view and any(map(cuda.holds, fake_cuda.tensors_in(result))):
                names.append(function._schema.name.removeprefix("aten::"))
            return result

        cuda.compute = counted
        with cuda.waiting_is_an_error():
            replay.sample(0.5)
    # The first is the copy of the positions to the device.
    assert sorted(names) == sorted(["_to_copy", *["index_select"] * 3, "add", "gt", "where", "full"])
