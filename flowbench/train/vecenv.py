"""Environments stepped together, each beginning its next episode by itself: in this process, or in others beside it."""

from __future__ import annotations

import os
import tempfile
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from flowbench.train.child_process import Child, Link

_AGAIN = b"a"  # the signal that an episode is taken up, which follows
FAULT_BYTES = 400  # of what is told of an environment that failed

Env = gymnasium.Env[np.ndarray, np.ndarray]
EpisodeSeed = Callable[[int, int], int]
"""(slot, episode) -> the seed that an episode is reset with, so that any episode can be had again by itself."""
Episode = tuple[int, np.ndarray]  # its seed, and the actions [n, act_dim] taken in it


class EnvironmentFault(RuntimeError):
    """An environment raised, returned something no algorithm can learn from, or the process it ran in died."""


class Step(NamedTuple):
    """What n environments returned for one action each."""

    next_obs: np.ndarray  # [n, obs_dim], the last one of an episode where it ended
    reward: np.ndarray  # [n]
    terminated: np.ndarray  # [n] bool, the episode truly ended
    truncated: np.ndarray  # [n] bool, it was cut by its time limit


class _Slots(ABC):
    """What environments here and in other processes have in common: they are stepped on the same arrays [n, ...].

    One that fails is named in `faults`; it stays where it stood, without reward or end, and is never stepped again.
    """

    def __init__(self, shared: dict[str, np.ndarray], episode_seed: EpisodeSeed) -> None:
        self._shared, self._episode_seed = shared, episode_seed
        slots, self.obs_dim = shared["obs"].shape
        self.act_dim = int(shared["action"].shape[1])
        self.episodes = [0] * slots  # episodes begun, a slot
        self.faults: dict[int, str] = {}  # slots whose environment has failed, and what it did
        self.deaths: dict[int, Exception] = {}  # of these, those whose process died
        self._sent = False
        for slot in range(slots):
            shared["seed"][slot] = episode_seed(slot, 0)

    def send(self, actions: np.ndarray) -> None:
        """Hand over one action [act_dim] an environment, [n, act_dim]."""
        self._shared["action"][...] = actions
        self._sent = True

    def receive(self) -> Step:
        """Wait for every environment's step; those that ended have begun anew in `obs`."""
        assert self._sent, "receive() without send()"
        self._sent = False
        self._wait()
        step = Step(*(self._shared[name].copy() for name in Step._fields))
        self._look()
        for slot in np.flatnonzero(step.terminated | step.truncated):
            self._begun(int(slot))
        return step

    def restore(self, episodes: Sequence[int], actions: Sequence[np.ndarray]) -> None:
        """Be again where so many episodes were begun a slot, and these actions [n, act_dim] taken in the last one."""
        again = [(self._episode_seed(slot, begun - 1), actions[slot]) for slot, begun in enumerate(episodes)]
        self._begin_again(again)
        self._look()
        for slot, begun in enumerate(episodes):
            self.episodes[slot] = begun - 1
            self._begun(slot)

    def retire(self, slot: int) -> None:
        """Never step a slot's environment again."""
        _leave(self._shared, slot)

    @abstractmethod
    def _wait(self) -> None:
        """Wait until every environment has stepped."""

    @abstractmethod
    def _begin_again(self, episodes: Sequence[Episode]) -> None:
        """Begin every slot's episode again and repeat what was done in it."""

    def _look(self) -> None:
        """Take over what the environments left."""
        self.obs = self._shared["obs"].copy()
        for slot in np.flatnonzero(self._shared["failed"]).tolist():
            if fault := self._shared["fault"][slot].decode(errors="ignore"):
                self.faults.setdefault(slot, fault)

    def _begun(self, slot: int) -> None:
        """Count the episode and leave the seed of the next, so that it is begun without a word."""
        self.episodes[slot] += 1
        self._shared["seed"][slot] = self._episode_seed(slot, self.episodes[slot])

    def _all_begun(self) -> None:
        self._look()
        for slot in range(len(self.episodes)):
            self._begun(slot)


class VecEnv(_Slots):
    """n environments in this process. `obs` [n, obs_dim] is what the next actions are for."""

    def __init__(self, envs: Sequence[Env], episode_seed: EpisodeSeed) -> None:
        self.envs = list(envs)
        layout = _layout(*_sizes(self.envs[0]))
        super().__init__(_by_name(np.zeros(len(self.envs), layout)), episode_seed)
        self._stand = _Stand(self.envs, range(len(self.envs)), self._shared)
        self._stand.begin()
        self._all_begun()

    def close(self) -> None:
        """Close every environment."""
        close_all(self.envs)

    def _wait(self) -> None:
        self._stand.step()

    def _begin_again(self, episodes: Sequence[Episode]) -> None:
        self._stand.begin_again(episodes)


class ProcessVecEnv(_Slots):
    """A `VecEnv` whose n environments are stepped in other processes, between `send` and `receive`.

    Gives the same numbers. What crosses over lies in shared memory; a step costs each process one byte either way.
    The environments of a process that dies have failed.
    """

    def __init__(self, make_env: Callable[[], Env], slots: int, episode_seed: EpisodeSeed, processes: int) -> None:
        """Builds the environments in at most `processes` >= 1 processes; `make_env` must be picklable.

        What it raises there is raised here. Raises EnvironmentFault when a process dies before the first step.
        """
        self._parts: list[list[int]] = [
            part.tolist() for part in np.array_split(np.arange(slots), min(slots, processes))
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
            self._begin(slots, sizes[0], episode_seed)
        except BaseException:
            self.close()
            raise

    def send(self, actions: np.ndarray) -> None:
        """Hand over one action [act_dim] an environment, [n, act_dim]; they begin to step at once."""
        super().send(actions)
        for k, child in enumerate(self._children):
            if k not in self._dead:
                child.signal()

    def close(self) -> None:
        """Close every environment and end the processes."""
        for child in self._children:
            child.let_go()
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
                for slot in self._parts[k]:
                    self._shared["obs"][slot] = self.obs[slot]  # it may have died while it wrote
                    _leave(self._shared, slot, str(error))
                    self.deaths[slot] = error

    def _begin_again(self, episodes: Sequence[Episode]) -> None:
        for child, part in zip(self._children, self._parts, strict=True):
            child.signal(_AGAIN)
            child.send([episodes[slot] for slot in part])
        self._wait()

    def _begin(self, slots: int, sizes: tuple[int, int], episode_seed: EpisodeSeed) -> None:
        """Share the memory and wait for every first observation."""
        folder = "/dev/shm" if os.path.isdir("/dev/shm") else None  # a file that is never written to a disk
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.truncate(slots * _layout(*sizes).itemsize)
            super().__init__(_attach(file.name, slots, *sizes), episode_seed)
            for child in self._children:
                child.send((file.name, slots))
            for child in self._children:
                child.wait()
        # The file's name is gone; its memory goes with the last process that has it open, however that ends.
        self._all_begun()


def make_vecenv(
    make_env: Callable[[], Env], slots: int, episode_seed: EpisodeSeed, processes: int
) -> VecEnv | ProcessVecEnv:
    """`slots` environments in `processes` other processes, or in this one where that is 0."""
    if processes == 0:
        return VecEnv([make_env() for _ in range(slots)], episode_seed)
    return ProcessVecEnv(make_env, slots, episode_seed, processes)


class _Stand:
    """Steps the environments of some slots on the shared arrays, wherever they are."""

    def __init__(self, envs: Sequence[Env], slots: Sequence[int], shared: dict[str, np.ndarray]) -> None:
        self._envs, self._slots, self._shared = envs, slots, shared

    def begin(self) -> None:
        """Begin every first episode."""
        for env, slot in zip(self._envs, self._slots, strict=True):
            self._try(self._reset, env, slot)

    def step(self) -> None:
        """Take one step in every environment that has not failed; those that end begin anew."""
        for env, slot in zip(self._envs, self._slots, strict=True):
            if not self._shared["failed"][slot]:
                self._try(self._step, env, slot)

    def begin_again(self, episodes: Sequence[Episode]) -> None:
        """Be amid these episodes, given as their seed and the actions taken in them."""
        for env, slot, (seed, actions) in zip(self._envs, self._slots, episodes, strict=True):
            if not self._shared["failed"][slot]:
                self._shared["seed"][slot] = seed
                self._try(self._replay, env, slot, actions)

    def _try(self, act: Callable[..., None], env: Env, slot: int, *more: Any) -> None:
        try:
            act(env, slot, *more)
        except EnvironmentFault as error:
            _leave(self._shared, slot, str(error))
        except (Exception, SystemExit) as error:  # a stranger's code: it fails alone, with its traceback in the log
            traceback.print_exc()
            _leave(self._shared, slot, f"the environment raised {type(error).__name__}: {error}")

    def _reset(self, env: Env, slot: int) -> None:
        self._shared["obs"][slot] = reset(env, int(self._shared["seed"][slot]))

    def _step(self, env: Env, slot: int) -> None:
        # The environment may keep its action; the shared one is overwritten.
        obs, reward, terminated, truncated = advance(env, self._shared["action"][slot].copy())
        self._shared["next_obs"][slot] = self._shared["obs"][slot] = obs
        self._shared["reward"][slot] = reward
        self._shared["terminated"][slot] = terminated
        self._shared["truncated"][slot] = truncated
        if terminated or truncated:
            self._reset(env, slot)

    def _replay(self, env: Env, slot: int, actions: np.ndarray) -> None:
        self._reset(env, slot)
        for action in actions:  # copied, as in `_step`: the environment may change it
            self._shared["obs"][slot] = advance(env, action.copy())[0]


def reset(env: Env, seed: int) -> np.ndarray:
    """The first observation of an episode. Raises EnvironmentFault for one that no policy can be asked about."""
    return _observation(env, env.reset(seed=seed)[0])


def advance(env: Env, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
    """Observation, reward, terminated, truncated. Raises EnvironmentFault for what no algorithm can learn from."""
    reward: Any
    obs, reward, terminated, truncated, _ = env.step(action)
    if np.size(reward) != 1:
        raise EnvironmentFault(f"the environment returned a reward of shape {np.shape(reward)}")
    with np.errstate(over="ignore"):  # what is too large for replay becomes infinite there
        finite = np.isfinite(np.float32(reward))
    if not finite:
        raise EnvironmentFault("the environment returned a reward that is not finite")
    return _observation(env, obs), float(reward), bool(terminated), bool(truncated)


def close_all(envs: Sequence[Env]) -> None:
    """Close environments; one that fails to is named in the log, because what it was for is done."""
    for env in envs:
        try:
            env.close()
        except Exception:
            traceback.print_exc()


def _observation(env: Env, obs: Any) -> np.ndarray:
    """What the environment gave as float32, which it must hold, and in the shape that its space says."""
    if np.shape(obs) != env.observation_space.shape:
        said = f"the environment returned an observation of shape {np.shape(obs)}"
        raise EnvironmentFault(f"{said}; its space says {env.observation_space.shape}")
    given = np.asarray(obs, dtype=np.float32)
    if not np.isfinite(given).all():
        raise EnvironmentFault("the environment returned an observation that is not finite")
    return given


def _serve(link: Link, make_env: Callable[[], Env], slots: Sequence[int]) -> None:
    """A process of a `ProcessVecEnv`: steps the environments of some slots whenever it is told to."""
    envs = [make_env() for _ in slots]
    sizes = [_sizes(env) for env in envs]
    link.done()
    link.send(sizes)
    path, n = link.receive()
    stand = _Stand(envs, slots, _attach(path, n, *sizes[0]))
    stand.begin()
    link.done()
    while byte := link.wait():
        if byte == _AGAIN:
            stand.begin_again(link.receive())
        else:
            stand.step()
        link.done()
    close_all(envs)


def _leave(shared: dict[str, np.ndarray], slot: int, fault: str = "") -> None:
    """Leave a slot as it stands: no environment steps it any more."""
    shared["failed"][slot] = True
    shared["fault"][slot] = " ".join(fault.split()).encode(errors="replace")[:FAULT_BYTES]
    shared["next_obs"][slot] = shared["obs"][slot]
    shared["reward"][slot] = 0.0
    shared["terminated"][slot] = shared["truncated"][slot] = False


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
        ("failed", np.bool_),
        ("fault", f"S{FAULT_BYTES}"),
    ]
    return np.dtype(fields, align=True)


def _attach(path: str, slots: int, obs_dim: int, act_dim: int) -> dict[str, np.ndarray]:
    """The shared arrays [slots, ...] by name."""
    return _by_name(np.asarray(np.memmap(path, _layout(obs_dim, act_dim), "r+", shape=(slots,))))


def _by_name(block: np.ndarray) -> dict[str, np.ndarray]:
    return {name: block[name] for name in block.dtype.names or ()}


def _sizes(env: Env) -> tuple[int, int]:
    """(obs_dim, act_dim)."""
    return _dim(env.observation_space), _dim(env.action_space)


def _dim(space: gymnasium.Space[Any]) -> int:
    (size,) = space.shape or ()
    return int(size)
