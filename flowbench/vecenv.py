"""Environments stepped together, each beginning its next episode by itself: in this process, or in others beside it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from flowbench.children import Child, Link

_AGAIN = b"a"  # the signal that an episode is taken up, which follows

Env = gymnasium.Env[np.ndarray, np.ndarray]
EpisodeSeed = Callable[[int, int], int]
"""(slot, episode) -> the seed that an episode is reset with, so that any episode can be had again by itself."""


class EnvironmentFault(RuntimeError):
    """An environment returned something no algorithm can learn from, or the process it ran in died."""


class Step(NamedTuple):
    """What n environments returned for one action each."""

    next_obs: np.ndarray  # [n, obs_dim], the last one of an episode where it ended
    reward: np.ndarray  # [n]
    terminated: np.ndarray  # [n] bool, the episode truly ended
    truncated: np.ndarray  # [n] bool, it was cut by its time limit


class VecEnv:
    """n environments in this process. `obs` [n, obs_dim] is what the next actions are for."""

    def __init__(self, envs: Sequence[Env], episode_seed: EpisodeSeed) -> None:
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
        return _dim(self.envs[0].action_space)

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
        _check_finite(step)
        self.obs = step.next_obs.copy()
        for slot in np.flatnonzero(step.terminated | step.truncated):
            self.obs[slot] = self._reset(int(slot))
        return step

    def restore(self, episodes: Sequence[int], actions: Sequence[np.ndarray]) -> None:
        """Be again where so many episodes were begun a slot, and these actions [n, act_dim] taken in the last one."""
        for slot, taken in enumerate(actions):
            self.episodes[slot] = episodes[slot] - 1
            self.obs[slot] = self._reset(slot)
            for action in taken:
                self.obs[slot] = self.envs[slot].step(action)[0]

    def close(self) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()

    def _reset(self, slot: int) -> np.ndarray:
        obs, _ = self.envs[slot].reset(seed=self._episode_seed(slot, self.episodes[slot]))
        self.episodes[slot] += 1
        return obs


class ProcessVecEnv:
    """A `VecEnv` whose n environments are stepped in other processes, between `send` and `receive`.

    Gives the same numbers. Observations and actions are float32, and cross over in shared memory; a step costs each
    process one byte either way.
    """

    def __init__(self, make_env: Callable[[], Env], slots: int, episode_seed: EpisodeSeed, processes: int) -> None:
        """Builds the environments in at most `processes` >= 1 processes; `make_env` must be picklable.

        What an environment raises there is raised here. Raises EnvironmentFault when a process dies.
        """
        self._episode_seed = episode_seed
        self._sent = False
        self._parts: list[list[int]] = [
            part.tolist() for part in np.array_split(np.arange(slots), min(slots, processes))
        ]
        self._children: list[Child] = []
        try:
            for k, part in enumerate(self._parts):
                name = f"environment process {k}"
                self._children.append(Child(name, _serve, make_env, part, fault=EnvironmentFault))
            sizes = [size for child in self._children for size in child.receive()]
            if len(set(sizes)) != 1:
                raise EnvironmentFault(f"environments of one task differ in (obs_dim, act_dim): {sizes}")
            self.obs_dim, self.act_dim = sizes[0]
            self._begin(slots)
        except BaseException:
            self.close()
            raise

    def send(self, actions: np.ndarray) -> None:
        """Hand over one action [act_dim] an environment, [n, act_dim]; they begin to step at once."""
        self._shared["action"][...] = actions
        for child in self._children:
            child.signal()
        self._sent = True

    def receive(self) -> Step:
        """Wait for every environment's step; those that ended have begun anew in `obs`."""
        assert self._sent, "receive() without send()"
        for child in self._children:
            child.wait()
        self._sent = False
        shared = self._shared
        step = Step(*(shared[name].copy() for name in Step._fields))
        _check_finite(step)
        self.obs = shared["obs"].copy()
        for slot in np.flatnonzero(step.terminated | step.truncated):
            self._begun(int(slot))
        return step

    def restore(self, episodes: Sequence[int], actions: Sequence[np.ndarray]) -> None:
        """Be again where so many episodes were begun a slot, and these actions [n, act_dim] taken in the last one."""
        for child, part in zip(self._children, self._parts, strict=True):
            child.signal(_AGAIN)
            child.send([(self._episode_seed(slot, episodes[slot] - 1), actions[slot]) for slot in part])
        for child in self._children:
            child.wait()
        self.obs = self._shared["obs"].copy()
        for slot, begun in enumerate(episodes):
            self.episodes[slot] = begun - 1
            self._begun(slot)

    def close(self) -> None:
        """Close every environment and end the processes."""
        for child in self._children:
            child.let_go()
        for child in self._children:
            child.close()

    def _begin(self, slots: int) -> None:
        """Share the memory and wait for every first observation."""
        folder = "/dev/shm" if os.path.isdir("/dev/shm") else None  # a file that is never written to a disk
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.truncate(slots * _layout(self.obs_dim, self.act_dim).itemsize)
            self._shared = _attach(file.name, slots, self.obs_dim, self.act_dim)
            for slot in range(slots):
                self._shared["seed"][slot] = self._episode_seed(slot, 0)
            for child in self._children:
                child.send((file.name, slots))
            for child in self._children:
                child.wait()
        # The file's name is gone; its memory goes with the last process that has it open, however that ends.
        self.obs = self._shared["obs"].copy()
        self.episodes = [0] * slots  # episodes begun, a slot
        for slot in range(slots):
            self._begun(slot)

    def _begun(self, slot: int) -> None:
        """Count the episode and leave the seed of the next, so that its process begins it without a word."""
        self.episodes[slot] += 1
        self._shared["seed"][slot] = self._episode_seed(slot, self.episodes[slot])


def make_vecenv(
    make_env: Callable[[], Env], slots: int, episode_seed: EpisodeSeed, processes: int
) -> VecEnv | ProcessVecEnv:
    """`slots` environments in `processes` other processes, or in this one where that is 0."""
    if processes == 0:
        return VecEnv([make_env() for _ in range(slots)], episode_seed)
    return ProcessVecEnv(make_env, slots, episode_seed, processes)


def _serve(link: Link, make_env: Callable[[], Env], slots: Sequence[int]) -> None:
    """A process of a `ProcessVecEnv`: steps the environments of some slots whenever it is told to."""
    envs = [make_env() for _ in slots]
    sizes = [(_dim(env.observation_space), _dim(env.action_space)) for env in envs]
    link.done()
    link.send(sizes)
    path, n = link.receive()
    shared = _attach(path, n, *sizes[0])

    def begin(env: Env, slot: int) -> None:
        shared["obs"][slot], _ = env.reset(seed=int(shared["seed"][slot]))

    for env, slot in zip(envs, slots, strict=True):
        begin(env, slot)
    link.done()
    while byte := link.wait():
        if byte == _AGAIN:
            for env, slot, (seed, actions) in zip(envs, slots, link.receive(), strict=True):
                shared["obs"][slot], _ = env.reset(seed=seed)
                for action in actions:
                    shared["obs"][slot] = env.step(action)[0]
            link.done()
            continue
        for env, slot in zip(envs, slots, strict=True):
            # The environment may keep its action; the shared one is overwritten.
            obs, reward, terminated, truncated, _ = env.step(shared["action"][slot].copy())
            shared["next_obs"][slot] = shared["obs"][slot] = obs
            shared["reward"][slot] = reward
            shared["terminated"][slot] = terminated
            shared["truncated"][slot] = truncated
            if terminated or truncated:
                begin(env, slot)
        link.done()
    for env in envs:
        env.close()


def _layout(obs_dim: int, act_dim: int) -> np.dtype[np.void]:
    """What parent and child share of one slot."""
    fields = [
        ("action", np.float32, (act_dim,)),
        ("obs", np.float32, (obs_dim,)),
        ("next_obs", np.float32, (obs_dim,)),
        ("reward", np.float32),
        ("terminated", np.bool_),
        ("truncated", np.bool_),
        ("seed", np.int64),  # of the episode that comes next
    ]
    return np.dtype(fields, align=True)


def _attach(path: str, slots: int, obs_dim: int, act_dim: int) -> dict[str, np.ndarray]:
    """The shared arrays [slots, ...] by name."""
    block = np.asarray(np.memmap(path, _layout(obs_dim, act_dim), "r+", shape=(slots,)))
    return {name: block[name] for name in block.dtype.names or ()}


def _dim(space: gymnasium.Space[Any]) -> int:
    (size,) = space.shape or ()
    return int(size)


def _check_finite(step: Step) -> None:
    if not (np.isfinite(step.next_obs).all() and np.isfinite(step.reward).all()):
        what = "reward" if np.isfinite(step.next_obs).all() else "observation"
        raise EnvironmentFault(f"the environment returned a {what} that is not finite")
