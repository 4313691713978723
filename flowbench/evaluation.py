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
from flowbench.children import Child, Link
from flowbench.streams import TorchStream, stream_seed
from flowbench.vecenv import Env

MakeEnv = Callable[[], Env]
BuildAgent = Callable[[int, int], Agent[Any]]
"""(obs_dim, act_dim) -> an agent of the kind that is trained, whatever its weights."""

CPU = torch.device("cpu")
_AHEAD = 2  # evaluations of one seed that may be unfinished


class EvaluationFault(RuntimeError):
    """A process that evaluates died, or raised what could not be brought over."""


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


class Episodes:
    """K environments and a policy that acts on their K observations at once, built when first needed, on the CPU."""

    def __init__(self, make_env: MakeEnv, build_agent: BuildAgent, episodes: int) -> None:
        self._make_env, self._build_agent, self._episodes = make_env, build_agent, episodes
        self._envs: list[Env] = []
        self._agent: Agent[Any] | None = None

    def returns(self, seed: int, step: int, weights: Mapping[str, Tensor]) -> np.ndarray:
        """Undiscounted returns [K] of an agent with `weights`; they depend on `seed`, `step` and these alone."""
        return self.play(seed, step, weights).returns

    def play(self, seed: int, step: int, weights: Mapping[str, Tensor]) -> Played:
        """The same episodes, with their lengths."""
        while len(self._envs) < self._episodes:
            self._envs.append(self._make_env())
        first = [env.reset(seed=stream_seed(seed, "evaluation", step, k))[0] for k, env in enumerate(self._envs)]
        obs = np.stack(first)
        agent = self._policy(obs.shape[1], weights)
        returns, lengths = np.zeros(self._episodes), np.zeros(self._episodes, dtype=int)
        running = list(range(self._episodes))
        with TorchStream(stream_seed(seed, "evaluation-policy", step), CPU), torch.no_grad():
            while running:
                actions = agent.act(torch.from_numpy(obs), explore=False).numpy()
                for k in list(running):
                    obs[k], reward, terminated, truncated, _ = self._envs[k].step(actions[k])
                    returns[k] += float(reward)
                    lengths[k] += 1
                    if terminated or truncated:
                        running.remove(k)
        return Played(returns, lengths)

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()

    def _policy(self, obs_dim: int, weights: Mapping[str, Tensor]) -> Agent[Any]:
        if self._agent is None:
            shape: Any = self._envs[0].action_space.shape
            with TorchStream(0, CPU):  # its first weights are drawn, and overwritten
                self._agent = self._build_agent(obs_dim, int(shape[0])).to(CPU)
        self._agent.load_state_dict(weights)
        return self._agent


class Evaluator:
    """Evaluates snapshots of the weights, in this process or in others while training goes on.

    An evaluation depends on weights, seed and step alone: not on when, where or after what it is done. Whatever
    environment or policy raise is raised by `collect` or `submit`, and EvaluationFault when a process dies.
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
            done: Future[np.ndarray] = Future()
            done.set_result(self._episodes.returns(seed, step, weights))
            self._pending.append(_Submitted(seed, step, seconds, done))
            return
        unfinished = [each.returns for each in self._pending if each.seed == seed and not each.returns.done()]
        while len(unfinished) >= _AHEAD:
            unfinished = list(wait(unfinished, return_when=FIRST_COMPLETED).not_done)
        for each in self._pending:
            if each.returns.done():
                each.returns.result()  # raises here what an earlier one failed with
        self._pending.append(_Submitted(seed, step, seconds, self._pool.submit(seed, step, weights)))

    def collect(self, wait: bool = False) -> list[Evaluation]:
        """Those finished since, or with `wait` all that were submitted; each seed's in the order of its steps."""
        finished, left = [], []
        held = set()  # seeds with an earlier evaluation that is not finished
        for each in self._pending:
            if wait or (each.returns.done() and each.seed not in held):
                finished.append(Evaluation(each.seed, each.step, each.returns.result(), each.seconds))
            else:
                held.add(each.seed)
                left.append(each)
        self._pending = left
        return finished

    def close(self) -> None:
        """End what is under way and close every environment."""
        if self._pool is not None:
            self._pool.close()
        self._episodes.close()


class _Submitted(NamedTuple):
    seed: int
    step: int
    seconds: float
    returns: Future[np.ndarray]


@dataclass(frozen=True)
class _Job:
    seed: int
    step: int
    weights: bytes
    returns: Future[np.ndarray] = field(default_factory=Future)


class _Pool:
    """Processes that evaluate, each with a thread here that hands it one job after the other.

    concurrent.futures.ProcessPoolExecutor would do, but that before Python 3.12 it hangs when a process is killed
    while megabytes of weights are on their way to it, and that it cannot be closed before its jobs are done.
    """

    def __init__(self, processes: int, episodes: Episodes, threads: int) -> None:
        self._processes, self._episodes, self._threads = processes, episodes, threads
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._members: list[tuple[Child, threading.Thread]] = []

    def submit(self, seed: int, step: int, weights: Mapping[str, Tensor]) -> Future[np.ndarray]:
        """The returns to come."""
        if len(self._members) < self._processes:  # started when first needed: a process takes seconds to import torch
            name = f"evaluation process {len(self._members)}"
            child = Child(name, _serve, self._episodes, self._threads, fault=EvaluationFault)
            thread = threading.Thread(target=self._hand_over, args=(child,), name=name, daemon=True)
            thread.start()
            self._members.append((child, thread))
        # Bytes, because torch would put a tensor that it hands to another process into shared memory, and leave it.
        buffer = io.BytesIO()
        torch.save(dict(weights), buffer)
        job = _Job(seed, step, buffer.getvalue())
        self._jobs.put(job)
        return job.returns

    def close(self) -> None:
        """End the processes at once; what was not finished never will be."""
        for child, _ in self._members:
            child.kill()
            self._jobs.put(None)
        for child, thread in self._members:
            thread.join()
            child.close()

    def _hand_over(self, child: Child) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                child.send((job.seed, job.step, job.weights))
                job.returns.set_result(child.receive())
            except BaseException as error:  # raised again where the result is asked for
                job.returns.set_exception(error)


def _serve(link: Link, episodes: Episodes, threads: int) -> None:
    """A process of a `_Pool`: evaluates until it is killed."""
    torch.set_num_threads(threads)
    while True:
        seed, step, weights = link.receive()
        returns = episodes.returns(seed, step, torch.load(io.BytesIO(weights), map_location=CPU, weights_only=True))
        link.done()
        link.send(returns)
