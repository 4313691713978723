"""Evaluation: whole episodes in environments and random streams of their own, here or beside the training."""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from algos.agent import Agent
from flowbench.common.errors import describe
from flowbench.train.child_process import Child, Link
from flowbench.train.rng import TorchStream, stream_seed
from flowbench.train.vecenv import Env, EnvironmentFault, advance, close_all, reset

MakeEnv = Callable[[], Env]
BuildAgent = Callable[[int, int], Agent[Any]]
"""(obs_dim, act_dim) -> an agent of the kind that is trained, whatever its weights."""

CPU = torch.device("cpu")
_AHEAD = 2  # evaluations of one seed that may be unfinished


class EvaluationFault(RuntimeError):
    """An evaluation failed: what environment or policy raised, or the death of the process it was done in."""


class Evaluation(NamedTuple):
    """One seed's evaluation at a step."""

    seed: int
    step: int
    returns: np.ndarray  # [K], undiscounted, one an episode
    seconds: float  # as submitted


class Played(NamedTuple):
    """K episodes that were played to their end."""

    returns: np.ndarray  # [K], undiscounted
    lengths: np.ndarray  # [K], steps


class Failed(NamedTuple):
    """One seed's evaluation at a step, which came to nothing."""

    seed: int
    step: int
    error: BaseException


class Episodes:
    """K environments and a policy that acts on their K observations at once, built when first needed, on the CPU."""

    def __init__(self, make_env: MakeEnv, build_agent: BuildAgent, episodes: int) -> None:
        self._make_env, self._build_agent, self._episodes = make_env, build_agent, episodes
        self._envs: list[Env] = []
        self._agent: Agent[Any] | None = None

    def returns(self, seed: int, step: int, weights: Mapping[str, Tensor]) -> np.ndarray:
        """Undiscounted returns [K] of an agent with `weights`; they depend on `seed`, `step` and these alone.

        Raises EnvironmentFault, FloatingPointError for actions that are no numbers, and what environments raise.
        """
        return self.play(seed, step, weights).returns

    def play(self, seed: int, step: int, weights: Mapping[str, Tensor]) -> Played:
        """The same episodes, with their lengths."""
        while len(self._envs) < self._episodes:
            self._envs.append(self._make_env())
        obs = np.stack([reset(env, stream_seed(seed, "evaluation", step, k)) for k, env in enumerate(self._envs)])
        agent = self._policy(obs.shape[1], weights)
        returns, lengths = np.zeros(self._episodes), np.zeros(self._episodes, dtype=int)
        running = list(range(self._episodes))
        with TorchStream(stream_seed(seed, "evaluation-policy", step), CPU), torch.no_grad():
            while running:
                actions = agent.act(torch.from_numpy(obs), explore=False).numpy()
                if not np.isfinite(actions).all():
                    raise FloatingPointError("the policy chose an action that is not finite")
                for k in list(running):
                    obs[k], reward, terminated, truncated = self._advance(k, actions[k])
                    returns[k] += reward
                    lengths[k] += 1
                    if terminated or truncated:
                        running.remove(k)
        return Played(returns, lengths)

    def _advance(self, k: int, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        try:
            return advance(self._envs[k], action)
        except FloatingPointError as error:  # numpy's, where an environment asks for it: no divergence of the policy
            raise EnvironmentFault(f"the environment raised {describe(error)}") from error

    def close(self) -> None:
        """Close every environment."""
        close_all(self._envs)

    def clear(self) -> None:
        """Have environments made anew: those that failed in an episode may not be fit for another."""
        self.close()
        self._envs = []

    def _policy(self, obs_dim: int, weights: Mapping[str, Tensor]) -> Agent[Any]:
        if self._agent is None:
            shape: Any = self._envs[0].action_space.shape
            with TorchStream(0, CPU):  # its first weights are drawn, and overwritten
                self._agent = self._build_agent(obs_dim, int(shape[0])).to(CPU)
        self._agent.load_state_dict(weights)
        return self._agent


class Evaluator:
    """Evaluates snapshots of the weights, in this process or in others while training goes on.

    An evaluation depends on weights, seed and step alone: not on when, where or after what it is done. One that fails,
    because of what environment or policy raise or with its process, is told by `collect` and is the end of no other.
    """

    def __init__(
        self, make_env: MakeEnv, build_agent: BuildAgent, episodes: int, processes: int, *, threads: int = 1
    ) -> None:
        """K = `episodes`. With `processes` > 0, each with so many torch `threads`, both callables must be picklable."""
        self.episodes = episodes
        self._episodes = Episodes(make_env, build_agent, episodes)
        self._pool = _Pool(processes, self._episodes, threads) if processes else None
        self._pending: list[_Submitted] = []  # in the order of submission

    def submit(self, seed: int, step: int, weights: Mapping[str, Tensor], seconds: float) -> None:
        """Evaluate `weights`, a state_dict on the CPU; waits only where the seed's last two are still unfinished."""
        if self._pool is None:
            self._pending.append(_Submitted(seed, step, seconds, self._here(seed, step, weights)))
            return
        unfinished = [each.returns for each in self._pending if each.seed == seed and not each.returns.done()]
        while len(unfinished) >= _AHEAD:
            unfinished = list(wait(unfinished, return_when=FIRST_COMPLETED).not_done)
        self._pending.append(_Submitted(seed, step, seconds, self._pool.submit(seed, step, weights)))

    def collect(self, wait: bool = False) -> list[Evaluation | Failed]:
        """Those finished since, or with `wait` all that were submitted; each seed's in the order of its steps."""
        finished, left = [], []
        held = set()  # seeds with an earlier evaluation that is not finished
        for each in self._pending:
            if wait or (each.returns.done() and each.seed not in held):
                finished.append(each.result())
            else:
                held.add(each.seed)
                left.append(each)
        self._pending = left
        return finished

    def idle(self, seconds: float) -> bool:
        """Whether all that was submitted is finished, for which it waits so long."""
        return not wait([each.returns for each in self._pending], timeout=seconds).not_done

    def close(self) -> None:
        """End what is under way and close every environment."""
        if self._pool is not None:
            self._pool.close()
        self._episodes.close()

    def _here(self, seed: int, step: int, weights: Mapping[str, Tensor]) -> Future[np.ndarray]:
        """The returns, which are there already."""
        done: Future[np.ndarray] = Future()
        try:
            done.set_result(self._episodes.returns(seed, step, weights))
        except (Exception, SystemExit) as error:  # whatever a stranger's code raises
            done.set_exception(error)
            self._episodes.clear()
        return done


class _Submitted(NamedTuple):
    seed: int
    step: int
    seconds: float
    returns: Future[np.ndarray]

    def result(self) -> Evaluation | Failed:
        """What came of it, once it has."""
        try:
            return Evaluation(self.seed, self.step, self.returns.result(), self.seconds)
        except (Exception, SystemExit) as error:
            return Failed(self.seed, self.step, error)


@dataclass(frozen=True)
class _Job:
    seed: int
    step: int
    weights: bytes
    returns: Future[np.ndarray] = field(default_factory=Future)


class _Pool:
    """Processes that evaluate, each with a thread here that hands it one job after the other.

    One in which a job fails ends with it, and another takes its place. concurrent.futures.ProcessPoolExecutor would do,
    but that before Python 3.12 it hangs when a process is killed while megabytes of weights are on their way to it,
    that it takes no job after such a death, and that it cannot be closed before its jobs are done.
    """

    def __init__(self, processes: int, episodes: Episodes, threads: int) -> None:
        self._processes, self._episodes, self._threads = processes, episodes, threads
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._children: list[Child] = []
        self._members: list[threading.Thread] = []
        self._spent: set[int] = set()  # processes that another is to take the place of
        self._closed = False
        self._mutex = threading.Lock()

    def submit(self, seed: int, step: int, weights: Mapping[str, Tensor]) -> Future[np.ndarray]:
        """The returns to come."""
        if len(self._members) < self._processes:  # started when first needed: a process takes seconds to import torch
            number = len(self._members)
            self._children.append(self._start(number))
            thread = threading.Thread(target=self._hand_over, args=(number,), name=_name(number), daemon=True)
            thread.start()
            self._members.append(thread)
        # Bytes, because torch would put a tensor that it hands to another process into shared memory, and leave it.
        buffer = io.BytesIO()
        torch.save(dict(weights), buffer)
        job = _Job(seed, step, buffer.getvalue())
        self._jobs.put(job)
        return job.returns

    def close(self) -> None:
        """End the processes at once; what was not finished never will be."""
        with self._mutex:
            self._closed = True
            for child in self._children:
                child.kill()
        for _ in self._members:
            self._jobs.put(None)
        for child, thread in zip(self._children, self._members, strict=True):
            thread.join()
            child.close()

    def _start(self, number: int) -> Child:
        return Child(_name(number), _serve, self._episodes, self._threads, fault=EvaluationFault)

    def _hand_over(self, number: int) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                child = self._fit(number)
                child.send((job.seed, job.step, job.weights))
                job.returns.set_result(child.receive())
            except BaseException as error:  # raised again where the result is asked for
                self._spent.add(number)
                job.returns.set_exception(error)

    def _fit(self, number: int) -> Child:
        """The process of this number, or another in its place."""
        with self._mutex:
            if number in self._spent and not self._closed:
                self._children[number].close()
                self._children[number] = self._start(number)
                self._spent.remove(number)
            return self._children[number]


def _name(number: int) -> str:
    return f"evaluation process {number}"


def _serve(link: Link, episodes: Episodes, threads: int) -> None:
    """A process of a `_Pool`: evaluates until it is killed."""
    torch.set_num_threads(threads)
    while True:
        seed, step, weights = link.receive()
        returns = episodes.returns(seed, step, torch.load(io.BytesIO(weights), map_location=CPU, weights_only=True))
        link.done()
        link.send(returns)
