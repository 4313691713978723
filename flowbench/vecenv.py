"""Environments stepped together, each beginning its next episode by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

Env = gymnasium.Env[np.ndarray, np.ndarray]


class EnvironmentFault(RuntimeError):
    """An environment returned something no algorithm can learn from."""


class Step(NamedTuple):
    """What n environments returned for one action each."""

    next_obs: np.ndarray  # [n, obs_dim], the last one of an episode where it ended
    reward: np.ndarray  # [n]
    terminated: np.ndarray  # [n] bool, the episode truly ended
    truncated: np.ndarray  # [n] bool, it was cut by its time limit


class VecEnv:
    """n environments in this process. `obs` [n, obs_dim] is what the next actions are for."""

    def __init__(self, envs: Sequence[Env], episode_seed: Callable[[int, int], int]) -> None:
        """`episode_seed(slot, episode)` seeds an episode, so that any episode can be had again by itself."""
        self.envs = list(envs)
        self.episodes = [0] * len(self.envs)  # episodes begun, a slot
        self._episode_seed = episode_seed
        self._actions: np.ndarray | None = None
        self.obs = np.stack([self._reset(slot) for slot in range(len(self.envs))])

    @property
    def obs_dim(self) -> int:
        return int(self.obs.shape[1])

    @property
    def act_dim(self) -> int:
        shape: Any = self.envs[0].action_space.shape
        return int(shape[0])

    def send(self, actions: np.ndarray) -> None:
        """Hand over one action [act_dim] an environment, [n, act_dim]."""
        self._actions = actions

    def receive(self) -> Step:
        """Wait for every environment's step; those that ended have begun anew in `obs`."""
        assert self._actions is not None, "receive() without send()"
        results = [env.step(action) for env, action in zip(self.envs, self._actions, strict=True)]
        self._actions = None
        step = Step(
            np.stack([obs for obs, *_ in results]),
            np.array([reward for _, reward, *_ in results], dtype=np.float32),
            np.array([terminated for _, _, terminated, *_ in results]),
            np.array([truncated for _, _, _, truncated, _ in results]),
        )
        if not (np.isfinite(step.next_obs).all() and np.isfinite(step.reward).all()):
            what = "reward" if np.isfinite(step.next_obs).all() else "observation"
            raise EnvironmentFault(f"the environment returned a {what} that is not finite")
        self.obs = step.next_obs.copy()
        for slot in np.flatnonzero(step.terminated | step.truncated):
            self.obs[slot] = self._reset(int(slot))
        return step

    def close(self) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()

    def _reset(self, slot: int) -> np.ndarray:
        obs, _ = self.envs[slot].reset(seed=self._episode_seed(slot, self.episodes[slot]))
        self.episodes[slot] += 1
        return obs
