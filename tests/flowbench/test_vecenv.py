"""Environments in step: episodes that follow one another, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import Walk

from flowbench.vecenv import EnvironmentFault, VecEnv


def seed_of(slot: int, episode: int) -> int:
    return 100 * slot + episode


def step(envs: VecEnv, *actions: float):
    envs.send(np.array(actions, dtype=np.float32)[:, None])
    return envs.receive()


def test_an_episode_is_followed_by_the_next() -> None:
    walks = [Walk(3), Walk(2)]
    envs = VecEnv(walks, seed_of)
    assert (envs.obs_dim, envs.act_dim) == (2, 1)
    assert envs.obs[:, 1].tolist() == [0, 0]
    for _ in range(6):
        step(envs, 0.1, 0.2)
    assert [walk.seeds for walk in walks] == [[0, 1, 2], [100, 101, 102, 103]]
    assert envs.episodes == [3, 4]
    assert envs.obs[:, 1].tolist() == [0, 0]


def test_the_last_observation_is_kept_and_the_next_begins_anew() -> None:
    envs = VecEnv([Walk(2), Walk(3)], seed_of)
    step(envs, 0.1, 0.1)
    result = step(envs, 0.1, 0.1)
    assert result.next_obs[:, 1].tolist() == [2, 2]  # the true last one of the first
    assert envs.obs[:, 1].tolist() == [0, 2]
    assert envs.obs[0, 0] == np.float32(np.random.default_rng(1).normal())
    assert envs.obs[1, 0] == result.next_obs[1, 0]
    assert not np.shares_memory(envs.obs, result.next_obs)


def test_what_is_kept_stays_as_it_was() -> None:
    envs = VecEnv([Walk(9)], seed_of)
    first = step(envs, 0.5)
    kept = first.next_obs.copy()
    step(envs, 0.5)
    assert np.array_equal(first.next_obs, kept)


def test_ending_and_being_cut_are_told_apart() -> None:
    envs = VecEnv([Walk(1, "terminated"), Walk(1, "truncated"), Walk(2)], seed_of)
    result = step(envs, 0.1, 0.2, 0.3)
    assert result.terminated.tolist() == [True, False, False]
    assert result.truncated.tolist() == [False, True, False]
    assert result.terminated.dtype == bool
    assert result.reward.dtype == np.float32
    np.testing.assert_allclose(result.reward, [0.1, 0.2, 0.3], rtol=1e-6)


def test_each_environment_gets_its_own_action() -> None:
    walks = [Walk(), Walk()]
    step(VecEnv(walks, seed_of), -0.5, 0.25)
    assert [walk.actions for walk in walks] == [[-0.5], [0.25]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("what", ["reward", "observation"])
def test_what_is_not_finite_is_refused(bad: float, what: str) -> None:
    class Broken(Walk):
        def step(self, action):
            obs, reward, *rest = super().step(action)
            if what == "reward":
                return obs, bad, *rest
            obs[1] = bad
            return obs, reward, *rest

    envs = VecEnv([Walk(), Broken()], seed_of)
    with pytest.raises(EnvironmentFault, match=what):
        step(envs, 0.0, 0.0)


def test_receiving_what_was_not_sent() -> None:
    envs = VecEnv([Walk()], seed_of)
    with pytest.raises(AssertionError, match=r"without send"):
        envs.receive()
    step(envs, 0.0)
    with pytest.raises(AssertionError, match=r"without send"):
        envs.receive()


def test_all_are_closed() -> None:
    walks = [Walk(), Walk()]
    VecEnv(walks, seed_of).close()
    assert all(walk.closed for walk in walks)
