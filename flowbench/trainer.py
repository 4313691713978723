"""The training loop: environments, replay and learner, in one loop that knows no algorithm by name.

It writes nothing. `Trainer.run` yields what happened, and the caller keeps it.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from algos.agent import Agent, Config
from flowbench.evaluation import Evaluator
from flowbench.learner import EagerLearner
from flowbench.replay import Replay
from flowbench.streams import TorchStream, stream_seed
from flowbench.vecenv import Env, VecEnv

TICK_SECONDS = 0.5


@dataclass(frozen=True)
class Row:
    """A row of train.csv or evals.csv of one seed."""

    table: str  # "train" or "evals"
    seed: int
    values: dict[str, float]


@dataclass(frozen=True)
class Tick:
    """The run goes on: a step count and the speed since the last tick."""

    step: int
    steps_per_second: float


@dataclass
class Clock:
    """Wall-clock seconds by what they were spent on."""

    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("environment", "act", "update", "evaluation", "other"), 0.0)
    )
    started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - start

    @property
    def total(self) -> float:
        return time.perf_counter() - self.started

    def split(self) -> dict[str, float]:
        """Seconds spent on each thing, what is left over being "other", and their total."""
        total = self.total
        named = {k: v for k, v in self.seconds.items() if k != "other"}
        return {**named, "other": total - sum(named.values()), "total": total}


class Trainer:
    """Trains one algorithm on one task for several seeds in step, each with its own everything."""

    def __init__(
        self,
        make_env: Callable[[], Env],
        algorithm: type[Agent[Any]],
        config: Config,
        seeds: Sequence[int],
        *,
        steps: int,
        evaluate_every: int,
        evaluation_episodes: int,
        device: torch.device,
    ) -> None:
        """`steps` and `evaluate_every` count environment steps of the task, after action repeat."""
        self.seeds = list(seeds)
        self.steps = steps
        self.clock = Clock()
        self._config = config
        self._evaluate_every = evaluate_every
        self._device = device
        self._envs = VecEnv(
            [make_env() for _ in self.seeds],
            lambda slot, episode: stream_seed(self.seeds[slot], "training", episode),
        )
        self._evaluator = Evaluator(make_env, evaluation_episodes, device)
        obs_dim, act_dim = self._envs.obs_dim, self._envs.act_dim
        self._streams = [TorchStream(stream_seed(seed, "torch"), device) for seed in self.seeds]
        self._random_actions = [np.random.default_rng(stream_seed(seed, "random-actions")) for seed in self.seeds]
        self._learners = []
        for stream in self._streams:
            with stream:
                self._learners.append(EagerLearner(algorithm(obs_dim, act_dim, config), device))
        with TorchStream(0, device):
            self.logged = self._learners[0].rehearse()
        self._dropped: set[str] = set()
        self._replay = Replay(self.seeds, obs_dim, act_dim, config, steps, device)
        self._returns = np.zeros(len(self.seeds))
        self._lengths = np.zeros(len(self.seeds), dtype=int)

    @property
    def parameter_count(self) -> int:
        """Trained parameters of one seed's agent."""
        return sum(p.numel() for p in self._learners[0].agent.parameters() if p.requires_grad)

    def columns(self, table: str) -> list[str]:
        """The columns of a table, in order."""
        if table == "evals":
            episodes = [f"return_{k}" for k in range(self._evaluator.episodes)]
            return ["step", "mean", "std", *episodes, "seconds"]
        return ["step", "episode", "return", "length", "updates", "seconds", "steps_per_second", *self.logged]

    def run(self) -> Iterator[Row | Tick]:
        """Train to the end, yielding rows as they come and a tick now and then."""
        clock, envs = self.clock, self._envs
        last_tick, last_step = clock.total, 0
        for step in range(1, self.steps + 1):
            obs = envs.obs
            action = self._act(obs, step)
            envs.send(action)
            if step > self._config.random_steps and self._replay.size >= 1:
                self._update(step)
            with clock.on("environment"):
                result = envs.receive()
            self._replay.add(obs, action, result.reward, result.next_obs, result.terminated)
            self._returns += result.reward
            self._lengths += 1
            for ended in np.flatnonzero(result.terminated | result.truncated):
                yield self._episode_row(int(ended), step)
            if step % self._evaluate_every == 0 or step == self.steps:
                for slot in range(len(self.seeds)):
                    yield self._evaluation_row(slot, step)
            if clock.total - last_tick >= TICK_SECONDS or step == self.steps:
                now = clock.total
                yield Tick(step, (step - last_step) / (now - last_tick))
                last_tick, last_step = now, step

    def close(self) -> None:
        """Close the environments."""
        self._envs.close()
        self._evaluator.close()

    def _act(self, obs: np.ndarray, step: int) -> np.ndarray:
        """Actions [S, act_dim] in [-1, 1] for obs [S, obs_dim]: uniform at first, then the policies'."""
        with self.clock.on("act"):
            if step <= self._config.random_steps:
                size = self._envs.act_dim
                actions = [generator.uniform(-1.0, 1.0, size) for generator in self._random_actions]
                return np.stack(actions).astype(np.float32)
            seen = torch.from_numpy(obs).to(self._device)
            chosen = []
            for slot, (learner, stream) in enumerate(zip(self._learners, self._streams, strict=True)):
                with stream:
                    chosen.append(learner.act(seen[slot : slot + 1], explore=True))
            action = torch.cat(chosen).cpu().numpy()
        if not np.isfinite(action).all():
            self._check_finite(step)
            raise FloatingPointError(f"the policy chose an action that is not finite at step {step}")
        return action.clip(-1.0, 1.0)  # what replay holds is what the environment is given

    def _check_finite(self, step: int) -> None:
        """Raise FloatingPointError, naming the term, when a loss has become NaN or infinite."""
        for learner in self._learners:
            for name, value in learner.means().items():
                if not math.isfinite(value):
                    raise FloatingPointError(f"{name} became {value} by step {step}")

    def _update(self, step: int) -> None:
        """The updates of one environment step; they need nothing of the step in flight."""
        with self.clock.on("update"):
            progress = torch.tensor((step - 1) / self.steps, device=self._device)
            for _ in range(self._config.updates_per_step):
                for learner, stream, batch in zip(
                    self._learners, self._streams, self._replay.sample(progress), strict=True
                ):
                    with stream:
                        learner.update(batch)

    def _episode_row(self, slot: int, step: int) -> Row:
        """The finished episode of one seed, with the means of its learner's losses since the last one."""
        self._check_finite(step)
        learner, total = self._learners[slot], self.clock.total
        values = {
            "step": step,
            "episode": self._envs.episodes[slot] - 1,
            "return": float(self._returns[slot]),
            "length": int(self._lengths[slot]),
            "updates": learner.updates,
            "seconds": total,
            "steps_per_second": step / total,
            **self._logged_means(learner),
        }
        self._returns[slot] = 0.0
        self._lengths[slot] = 0
        return Row("train", self.seeds[slot], values)

    def _logged_means(self, learner: EagerLearner) -> dict[str, float]:
        """The learner's means; a name that the rehearsal did not show has no column and is dropped with a line."""
        means = learner.pop_means()
        for name in means.keys() - set(self.logged) - self._dropped:
            print(f"{name} is not kept: it was not logged from the first updates on", file=sys.stderr)
            self._dropped.add(name)
        return {name: value for name, value in means.items() if name not in self._dropped}

    def _evaluation_row(self, slot: int, step: int) -> Row:
        self._check_finite(step)
        with self.clock.on("evaluation"):
            returns = self._evaluator.returns(self._learners[slot], self.seeds[slot], step)
        values = {
            "step": step,
            "mean": float(returns.mean()),
            "std": float(returns.std()),
            **{f"return_{k}": float(value) for k, value in enumerate(returns)},
            "seconds": self.clock.total,
        }
        return Row("evals", self.seeds[slot], values)
