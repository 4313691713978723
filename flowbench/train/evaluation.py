"""Evaluation: whole episodes with their own environments and random streams, in this process or in others."""

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

from algos.agent import Agent, Memory
from flowbench.common.child_process import Child, Link
from flowbench.common.errors import describe
from flowbench.common.rng import TorchStream, stream_seed
from flowbench.learners import kernels
from flowbench.train.vecenv import Env, EnvironmentFault, advance, close_all, reset

MakeEnv = Callable[[], Env]
BuildAgent = Callable[[int, int], Agent[Any]]
"""(obs_dim, act_dim) -> an agent like the trained one, with any weights."""

CPU = torch.device("cpu")
_AHEAD = 2  # unfinished evaluations that one seed may have


class EvaluationFault(RuntimeError):
    """An evaluation failed: environment or policy raised an error, or the worker process died."""


class Evaluation(NamedTuple):
    """One seed's evaluation at a step."""

    seed: int
    step: int
    returns: np.ndarray  # [K], undiscounted, one for each episode
    seconds: float  # as given to `submit`


class Played(NamedTuple):
    """K complete episodes."""

    returns: np.ndarray  # [K], undiscounted
    lengths: np.ndarray  # [K], steps


class Failed(NamedTuple):
    """An evaluation that failed."""

    seed: int
    step: int
    error: BaseException


def act(agent: Agent[Any], obs: Tensor, memory: Memory | None) -> tuple[Tensor, Memory | None]:
    """Actions [N, act_dim] of an evaluation for obs [N, obs_dim], and the memory for the next step."""
    if memory is None:
        return agent.act(obs, explore=False), None
    given: Any = agent.act
    action, after = given(obs, False, memory)
    return action, after


class Episodes:
    """K environments and one policy for all of them, on the CPU. They are built at their first use."""

    def __init__(self, make_env: MakeEnv, build_agent: BuildAgent, episodes: int) -> None:
        self._make_env, self._build_agent, self._episodes = make_env, build_agent, episodes
        self._envs: list[Env] = []
        self._agent: Agent[Any] | None = None

    def returns(self, seed: int, step: int, weights: Mapping[str, Tensor]) -> np.ndarray:
        """Undiscounted returns [K] of an agent with `weights`. They depend only on `seed`, `step` and the weights.

        Raises EnvironmentFault, FloatingPointError for actions that are not finite, and any error of an environment.
        """
        return self.play(seed, step, weights).returns

    def play(self, seed: int, step: int, weights: Mapping[str, Tensor]) -> Played:
        """The returns and lengths of the same episodes."""
        while len(self._envs) < self._episodes:
            self._envs.append(self._make_env())
        obs = np.stack([reset(env, stream_seed(seed, "evaluation", step, k)) for k, env in enumerate(self._envs)])
        agent = self._policy(obs.shape[1], weights)
        returns, lengths = np.zeros(self._episodes), np.zeros(self._episodes, dtype=int)
        running = list(range(self._episodes))
        with TorchStream(stream_seed(seed, "evaluation-policy", step), CPU), torch.no_grad():
            memory = agent.memory(torch.from_numpy(obs.copy()))
            while running:
                # A memory may keep the observations, which are overwritten below.
                chosen, memory = act(agent, torch.from_numpy(obs if memory is None else obs.copy()), memory)
                actions = chosen.numpy()
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
        except FloatingPointError as error:  # raised by numpy in the environment: the policy has not diverged
            raise EnvironmentFault(f"the environment raised {describe(error)}") from error

    def close(self) -> None:
        """Close every environment."""
        close_all(self._envs)

    def clear(self) -> None:
        """Discard the environments. After an error they may not be usable for another episode."""
        self.close()
        self._envs = []

    def _policy(self, obs_dim: int, weights: Mapping[str, Tensor]) -> Agent[Any]:
        if self._agent is None:
            shape: Any = self._envs[0].action_space.shape
            with TorchStream(0, CPU):  # draws initial weights, which are overwritten
                self._agent = kernels.install(self._build_agent(obs_dim, int(shape[0]))).to(CPU).eval()
        self._agent.load_state_dict(weights)
        return self._agent


class Evaluator:
    """Evaluates snapshots of the weights, in this process or concurrently with training in others.

    An evaluation depends only on weights, seed and step, not on time, process or earlier evaluations. One that fails,
    through an error of environment or policy or because its process dies, is returned by `collect` and affects no
    other.
    """

    def __init__(
        self, make_env: MakeEnv, build_agent: BuildAgent, episodes: int, processes: int, *, threads: int = 1
    ) -> None:
        """K = `episodes`. With `processes` > 0, each with `threads` torch threads, both callables must be picklable."""
        self.episodes = episodes
        self._episodes = Episodes(make_env, build_agent, episodes)
        self._pool = _Pool(processes, self._episodes, threads) if processes else None
        self._pending: list[_Submitted] = []  # in the order of submission

    def submit(self, seed: int, step: int, weights: Mapping[str, Tensor], seconds: float) -> None:
        """Evaluate `weights`, a state_dict on the CPU. Waits only while two evaluations of the seed are unfinished."""
        if self._pool is None:
            self._pending.append(_Submitted(seed, step, seconds, self._here(seed, step, weights)))
            return
        unfinished = [each.returns for each in self._pending if each.seed == seed and not each.returns.done()]
        while len(unfinished) >= _AHEAD:
            unfinished = list(wait(unfinished, return_when=FIRST_COMPLETED).not_done)
        self._pending.append(_Submitted(seed, step, seconds, self._pool.submit(seed, step, weights)))

    def collect(self, wait: bool = False) -> list[Evaluation | Failed]:
        """The newly finished ones, or with `wait` all that were submitted, in the order of steps for each seed."""
        finished, left = [], []
        unfinished = set()  # seeds with an earlier evaluation that is not finished
        for each in self._pending:
            if wait or (each.returns.done() and each.seed not in unfinished):
                finished.append(each.result())
            else:
                unfinished.add(each.seed)
                left.append(each)
        self._pending = left
        return finished

    def idle(self, seconds: float) -> bool:
        """Wait at most `seconds`. Whether all that was submitted is finished then."""
        return not wait([each.returns for each in self._pending], timeout=seconds).not_done

    def close(self) -> None:
        """Stop running evaluations and close every environment."""
        if self._pool is not None:
            self._pool.close()
        self._episodes.close()

    def _here(self, seed: int, step: int, weights: Mapping[str, Tensor]) -> Future[np.ndarray]:
        """Evaluate in this process. The result is complete."""
        done: Future[np.ndarray] = Future()
        try:
            done.set_result(self._episodes.returns(seed, step, weights))
        except (Exception, SystemExit) as error:  # third-party code may raise anything
            done.set_exception(error)
            self._episodes.clear()
        return done


class _Submitted(NamedTuple):
    seed: int
    step: int
    seconds: float
    returns: Future[np.ndarray]

    def result(self) -> Evaluation | Failed:
        """The result, or the error of the evaluation."""
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
    """Worker processes that evaluate, each with a thread in this process that sends it one job after another.

    A process in which a job failed is replaced. concurrent.futures.ProcessPoolExecutor is not used: before Python 3.12
    it hangs when a process is killed while it receives weights, after such a death it accepts no job, and it cannot be
    closed before its jobs are done.
    """

    def __init__(self, processes: int, episodes: Episodes, threads: int) -> None:
        self._processes, self._episodes, self._threads = processes, episodes, threads
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._children: list[Child] = []
        self._members: list[threading.Thread] = []
        self._spent: set[int] = set()  # processes to be replaced
        self._closed = False
        self._mutex = threading.Lock()

    def submit(self, seed: int, step: int, weights: Mapping[str, Tensor]) -> Future[np.ndarray]:
        """The future returns."""
        if len(self._members) < self._processes:  # started at first use, because importing torch takes seconds
            number = len(self._members)
            self._children.append(self._start(number))
            thread = threading.Thread(target=self._send_jobs, args=(number,), name=_name(number), daemon=True)
            thread.start()
            self._members.append(thread)
        # As bytes, because torch would put tensors for another process into shared memory and not free it.
        buffer = io.BytesIO()
        torch.save(dict(weights), buffer)
        job = _Job(seed, step, buffer.getvalue())
        self._jobs.put(job)
        return job.returns

    def close(self) -> None:
        """End the processes at once and abandon unfinished jobs."""
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

    def _send_jobs(self, number: int) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                child = self._usable(number)
                child.send((job.seed, job.step, job.weights))
                job.returns.set_result(child.receive())
            except BaseException as error:  # raised again by `returns.result()`
                self._spent.add(number)
                job.returns.set_exception(error)

    def _usable(self, number: int) -> Child:
        """The process with this number, replaced if a job failed in it."""
        with self._mutex:
            if number in self._spent and not self._closed:
                self._children[number].close()
                self._children[number] = self._start(number)
                self._spent.remove(number)
            return self._children[number]


def _name(number: int) -> str:
    return f"evaluation process {number}"


def _serve(link: Link, episodes: Episodes, threads: int) -> None:
    """The main function of a worker process: evaluates until it is killed."""
    torch.set_num_threads(threads)
    while True:
        seed, step, weights = link.receive()
        returns = episodes.returns(seed, step, torch.load(io.BytesIO(weights), map_location=CPU, weights_only=True))
        link.done()
        link.send(returns)
