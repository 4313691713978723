"""Environments that are stepped together, in this process or in worker processes. Each resets itself when it ends."""

from __future__ import annotations

import os
import tempfile
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from flowbench.common.child_process import Child, Link
from flowbench.common.real import is_flag, is_real

_REPLAY = b"a"  # the signal that episodes to replay follow
FAULT_BYTES = 400  # length limit of an error message

Env = gymnasium.Env[np.ndarray, np.ndarray]
EpisodeSeed = Callable[[int, int], int]
"""(index, episode) -> the seed that an episode is reset with, so that any episode can be repeated by itself."""
Episode = tuple[int, np.ndarray]  # its seed and the actions [n, act_dim] taken so far


class EnvironmentFault(RuntimeError):
    """An environment raised, returned something no algorithm can learn from, or the process it ran in died."""


class Step(NamedTuple):
    """The result of one action in each of n environments."""

    next_obs: np.ndarray  # [n, obs_dim]; where an episode ended, its last observation
    reward: np.ndarray  # [n]
    terminated: np.ndarray  # [n] bool; the episode truly ended
    truncated: np.ndarray  # [n] bool; the time limit cut it


class _Envs(ABC):
    """n environments that exchange actions and results through shared arrays [n, ...].

    `faults` holds the environments that have failed. They are not stepped again: their observation stays the same, the
    reward is 0, and no episode ends.
    """

    def __init__(self, shared: dict[str, np.ndarray], episode_seed: EpisodeSeed) -> None:
        self._shared, self._episode_seed = shared, episode_seed
        count, self.obs_dim = shared["obs"].shape
        self.act_dim = int(shared["action"].shape[1])
        self.episodes = [0] * count  # episodes begun, by environment
        self.faults: dict[int, str] = {}  # error messages of the environments that have failed, by index
        self.deaths: dict[int, Exception] = {}  # the errors of those among them whose process died
        self._sent = False
        for index in range(count):
            shared["seed"][index] = episode_seed(index, 0)

    def send(self, actions: np.ndarray) -> None:
        """Start a step with one action for each environment, [n, act_dim]."""
        self._shared["action"][...] = actions
        self._sent = True

    def receive(self) -> Step:
        """Wait for every environment's step. Where an episode ended, `obs` is the first of the next one."""
        assert self._sent, "receive() without send()"
        self._sent = False
        self._wait()
        step = Step(*(self._shared[name].copy() for name in Step._fields))
        self._read()
        for index in np.flatnonzero(step.terminated | step.truncated):
            self._count_episode(int(index))
        return step

    def restore(self, episodes: Sequence[int], actions: Sequence[np.ndarray]) -> None:
        """Return to where so many episodes had begun and these actions [n, act_dim] were taken in the last one."""
        current = [(self._episode_seed(index, begun - 1), actions[index]) for index, begun in enumerate(episodes)]
        self._replay(current)
        self._read()
        for index, begun in enumerate(episodes):
            self.episodes[index] = begun - 1
            self._count_episode(index)

    def retire(self, index: int) -> None:
        """Never step an environment again."""
        _retire(self._shared, index)

    @abstractmethod
    def _wait(self) -> None:
        """Wait until every environment has stepped."""

    @abstractmethod
    def _replay(self, episodes: Sequence[Episode]) -> None:
        """Reset every environment and repeat the actions of its episode."""

    def _read(self) -> None:
        """Copy observations and errors from the shared arrays."""
        self.obs = self._shared["obs"].copy()
        for index in np.flatnonzero(self._shared["failed"]).tolist():
            if fault := self._shared["fault"][index].decode(errors="ignore"):
                self.faults.setdefault(index, fault)

    def _count_episode(self, index: int) -> None:
        """Count an episode and store the seed of the next one, which the environment uses when this one ends."""
        self.episodes[index] += 1
        self._shared["seed"][index] = self._episode_seed(index, self.episodes[index])

    def _count_first_episodes(self) -> None:
        self._read()
        for index in range(len(self.episodes)):
            self._count_episode(index)


class VecEnv(_Envs):
    """n environments in this process. `obs` [n, obs_dim] are the observations for the next actions."""

    def __init__(self, envs: Sequence[Env], episode_seed: EpisodeSeed) -> None:
        self.envs = list(envs)
        layout = _layout(*_sizes(self.envs[0]))
        super().__init__(_by_name(np.zeros(len(self.envs), layout)), episode_seed)
        self._stepper = _Stepper(self.envs, range(len(self.envs)), self._shared)
        self._stepper.begin()
        self._count_first_episodes()

    def close(self) -> None:
        """Close every environment."""
        close_all(self.envs)

    def _wait(self) -> None:
        self._stepper.step()

    def _replay(self, episodes: Sequence[Episode]) -> None:
        self._stepper.replay(episodes)


class ProcessVecEnv(_Envs):
    """A `VecEnv` whose n environments are stepped in worker processes, between `send` and `receive`.

    It gives the same numbers. Data is in shared memory; a step sends one byte to each process and one back. When a
    process dies, its environments have failed.
    """

    def __init__(self, make_env: Callable[[], Env], count: int, episode_seed: EpisodeSeed, processes: int) -> None:
        """Builds the environments in at most `processes` >= 1 processes; `make_env` must be picklable.

        Raises what `make_env` raises there, and EnvironmentFault when a process dies before the first step.
        """
        self._parts: list[list[int]] = [
            part.tolist() for part in np.array_split(np.arange(count), min(count, processes))
        ]
        self._children: list[Child] = []
        self._dead: set[int] = set()
        try:
            for k, part in enumerate(self._parts):
                name = f"environment process {k}"
                self._children.append(Child(name, _serve, make_env, part, fault=EnvironmentFault))
            sizes = [size for child in self._children for size in child.receive()]
            if len(set(sizes)) != 1:
                raise EnvironmentFault(f"environments of one task differ in (obs_dim, act_dim): {sizes}")
            self._begin(count, sizes[0], episode_seed)
        except BaseException:
            self.close()
            raise

    def send(self, actions: np.ndarray) -> None:
        """Start a step with one action for each environment, [n, act_dim]. Returns without waiting."""
        super().send(actions)
        for k, child in enumerate(self._children):
            if k not in self._dead:
                child.signal()

    def close(self) -> None:
        """Close every environment and end the processes."""
        for child in self._children:
            child.release()
        for child in self._children:
            child.close()

    def _wait(self) -> None:
        for k, child in enumerate(self._children):
            if k in self._dead:
                continue
            try:
                child.wait()
            except EnvironmentFault as error:
                self._dead.add(k)
                for index in self._parts[k]:
                    self._shared["obs"][index] = self.obs[index]  # the process may have died while writing it
                    _retire(self._shared, index, str(error))
                    self.deaths[index] = error

    def _replay(self, episodes: Sequence[Episode]) -> None:
        for child, part in zip(self._children, self._parts, strict=True):
            child.signal(_REPLAY)
            child.send([episodes[index] for index in part])
        self._wait()

    def _begin(self, count: int, sizes: tuple[int, int], episode_seed: EpisodeSeed) -> None:
        """Share the memory and wait for every first observation."""
        folder = "/dev/shm" if os.path.isdir("/dev/shm") else None  # in memory, where the system has this folder
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.truncate(count * _layout(*sizes).itemsize)
            super().__init__(_attach(file.name, count, *sizes), episode_seed)
            for child in self._children:
                child.send((file.name, count))
            for child in self._children:
                child.wait()
        # The file is deleted now. The system frees its memory when the last process that has it open ends.
        self._count_first_episodes()


def make_vecenv(
    make_env: Callable[[], Env], count: int, episode_seed: EpisodeSeed, processes: int
) -> VecEnv | ProcessVecEnv:
    """`count` environments in `processes` worker processes, or in this process if that is 0."""
    if processes == 0:
        return VecEnv([make_env() for _ in range(count)], episode_seed)
    return ProcessVecEnv(make_env, count, episode_seed, processes)


class _Stepper:
    """Steps the environments of one process; `indices` are their places in the shared arrays."""

    def __init__(self, envs: Sequence[Env], indices: Sequence[int], shared: dict[str, np.ndarray]) -> None:
        self._envs, self._indices, self._shared = envs, indices, shared

    def begin(self) -> None:
        """Begin every first episode."""
        for env, index in zip(self._envs, self._indices, strict=True):
            self._try(self._reset, env, index)

    def step(self) -> None:
        """Step every environment that has not failed, and reset those whose episode ended."""
        for env, index in zip(self._envs, self._indices, strict=True):
            if not self._shared["failed"][index]:
                self._try(self._step, env, index)

    def replay(self, episodes: Sequence[Episode]) -> None:
        """Reset every environment that has not failed and repeat the actions of its episode."""
        for env, index, (seed, actions) in zip(self._envs, self._indices, episodes, strict=True):
            if not self._shared["failed"][index]:
                self._shared["seed"][index] = seed
                self._try(self._repeat, env, index, actions)

    def _try(self, act: Callable[..., None], env: Env, index: int, *more: Any) -> None:
        try:
            act(env, index, *more)
        except EnvironmentFault as error:
            _retire(self._shared, index, str(error))
        except (Exception, SystemExit) as error:  # third-party code may raise anything; the traceback goes to the log
            traceback.print_exc()
            _retire(self._shared, index, f"the environment raised {type(error).__name__}: {error}")

    def _reset(self, env: Env, index: int) -> None:
        self._shared["obs"][index] = reset(env, int(self._shared["seed"][index]))

    def _step(self, env: Env, index: int) -> None:
        # The environment may keep its action; the shared one is overwritten.
        obs, reward, terminated, truncated = advance(env, self._shared["action"][index].copy())
        self._shared["next_obs"][index] = self._shared["obs"][index] = obs
        self._shared["reward"][index] = reward
        self._shared["terminated"][index] = terminated
        self._shared["truncated"][index] = truncated
        if terminated or truncated:
            self._reset(env, index)

    def _repeat(self, env: Env, index: int, actions: np.ndarray) -> None:
        self._reset(env, index)
        for action in actions:  # copied, as in `_step`: the environment may change it
            self._shared["obs"][index] = advance(env, action.copy())[0]


def reset(env: Env, seed: int) -> np.ndarray:
    """The first observation of an episode. Raises EnvironmentFault for one that is not finite or has a wrong shape."""
    return _observation(env, env.reset(seed=seed)[0])


def advance(env: Env, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
    """Observation, reward, terminated, truncated. Raises EnvironmentFault for invalid values."""
    reward: Any
    obs, reward, terminated, truncated, _ = env.step(action)
    for name, value in (("terminated", terminated), ("truncated", truncated)):
        if not is_flag(value):
            raise EnvironmentFault(f"the environment returned {name} as {value!r}, not as true or false")
    if not is_real(reward):
        raise EnvironmentFault(f"the environment returned a reward of type {type(reward).__name__}, not a real number")
    if np.size(reward) != 1:
        raise EnvironmentFault(f"the environment returned a reward of shape {np.shape(reward)}")
    with np.errstate(over="ignore"):  # replay stores float32, where large values become infinite
        finite = np.isfinite(np.float32(reward))
    if not finite:
        raise EnvironmentFault("the environment returned a reward that is not finite")
    return _observation(env, obs), float(reward), bool(terminated), bool(truncated)


def close_all(envs: Sequence[Env]) -> None:
    """Close environments. An error goes to the log only, because the environments are no longer needed."""
    for env in envs:
        try:
            env.close()
        except Exception:
            traceback.print_exc()


def _observation(env: Env, obs: Any) -> np.ndarray:
    """The observation as float32. Raises EnvironmentFault if it is not finite or not of its space's shape."""
    if np.shape(obs) != env.observation_space.shape:
        shapes = f"shape {np.shape(obs)}; its space says {env.observation_space.shape}"
        raise EnvironmentFault(f"the environment returned an observation of {shapes}")
    if not is_real(obs):
        kind = np.asarray(obs).dtype
        raise EnvironmentFault(f"the environment returned an observation of type {kind}, not of real numbers")
    given = np.asarray(obs, dtype=np.float32)
    if not np.isfinite(given).all():
        raise EnvironmentFault("the environment returned an observation that is not finite")
    return given


def _serve(link: Link, make_env: Callable[[], Env], indices: Sequence[int]) -> None:
    """The main function of a worker process: steps its environments at every signal."""
    envs = [make_env() for _ in indices]
    sizes = [_sizes(env) for env in envs]
    link.done()
    link.send(sizes)
    path, n = link.receive()
    stepper = _Stepper(envs, indices, _attach(path, n, *sizes[0]))
    stepper.begin()
    link.done()
    while byte := link.wait():
        if byte == _REPLAY:
            stepper.replay(link.receive())
        else:
            stepper.step()
        link.done()
    close_all(envs)


def _retire(shared: dict[str, np.ndarray], index: int, fault: str = "") -> None:
    """Mark an environment as failed. Its observation stays the same."""
    shared["failed"][index] = True
    shared["fault"][index] = " ".join(fault.split()).encode(errors="replace")[:FAULT_BYTES]
    shared["next_obs"][index] = shared["obs"][index]
    shared["reward"][index] = 0.0
    shared["terminated"][index] = shared["truncated"][index] = False


def _layout(obs_dim: int, act_dim: int) -> np.dtype[np.void]:
    """The data that parent and worker share for one environment."""
    fields = [
        ("action", np.float32, (act_dim,)),
        ("obs", np.float32, (obs_dim,)),
        ("next_obs", np.float32, (obs_dim,)),
        ("reward", np.float32),
        ("terminated", np.bool_),
        ("truncated", np.bool_),
        ("seed", np.int64),  # of the next episode
        ("failed", np.bool_),
        ("fault", f"S{FAULT_BYTES}"),
    ]
    return np.dtype(fields, align=True)


def _attach(path: str, count: int, obs_dim: int, act_dim: int) -> dict[str, np.ndarray]:
    """The shared arrays [count, ...] by name."""
    return _by_name(np.asarray(np.memmap(path, _layout(obs_dim, act_dim), "r+", shape=(count,))))


def _by_name(block: np.ndarray) -> dict[str, np.ndarray]:
    return {name: block[name] for name in block.dtype.names or ()}


def _sizes(env: Env) -> tuple[int, int]:
    """(obs_dim, act_dim)."""
    return _dim(env.observation_space), _dim(env.action_space)


def _dim(space: gymnasium.Space[Any]) -> int:
    (size,) = space.shape or ()
    return int(size)
