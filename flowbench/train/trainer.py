"""The training loop: environments, replay and learner, in one loop that knows no algorithm by name.

It writes no file. `Trainer.run` yields events, and the caller stores them.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from algos.agent import Batch, Config, Transition
from flowbench.common.rng import stream_seed
from flowbench.common.tensors import State, flat, under
from flowbench.learners.seed_learners import GroupLearner
from flowbench.train import failures
from flowbench.train.clock import Clock
from flowbench.train.evaluation import Evaluation, Evaluator, Failed
from flowbench.train.events import Row, Save, SeedFailed, Tick
from flowbench.train.failures import FailedSeeds
from flowbench.train.replay import Replay
from flowbench.train.vecenv import ProcessVecEnv, Step, VecEnv

TICK_SECONDS = 0.5
STOP_SECONDS = 10.0  # how long a run that was asked to stop waits for evaluations in other processes


class Trainer:
    """Trains several seeds in lockstep. `build.build_trainer` assembles one.

    A seed is addressed by its index in the group, 0 to S - 1.
    """

    def __init__(
        self,
        envs: VecEnv | ProcessVecEnv,
        replay: Replay,
        learner: GroupLearner,
        evaluator: Evaluator,
        clock: Clock,
        *,
        config: Config,
        seeds: Sequence[int],
        steps: int,
        evaluate_every: int,
        save_every: int | None,
        success: float | None,
        device: torch.device,
    ) -> None:
        self.seeds = list(seeds)
        self.steps = steps
        self.step = 0  # steps taken
        self.finished = False  # every step is taken and every evaluation is done
        self.clock = clock
        self._envs, self._replay, self._learner, self._evaluator = envs, replay, learner, evaluator
        self._config = config
        self._evaluate_every, self._save_every, self._success = evaluate_every, save_every, success
        self._device = device
        self._stopping = False
        self._random_actions = [np.random.default_rng(stream_seed(seed, "random-actions")) for seed in self.seeds]
        self._returns = np.zeros(len(self.seeds))  # of the current episodes
        self._actions: list[list[np.ndarray]] = [[] for _ in self.seeds]  # taken in the current episodes
        self._failed = FailedSeeds(self.seeds, envs)
        self._dropped: set[str] = set()  # logged names that have no column

    @property
    def kind(self) -> str:
        """How the seeds are trained: "separate" or "stacked"."""
        return self._learner.kind

    @property
    def note(self) -> str:
        """Why seeds are not stacked although they should be, or are slower than they could be; or empty."""
        return self._learner.note

    @property
    def parameter_count(self) -> int:
        """Trained parameters of one seed's agent."""
        return self._learner.parameters

    @property
    def replay_device(self) -> torch.device:
        """Where the replay is stored."""
        return self._replay.device

    @property
    def sizes(self) -> tuple[int, int]:
        """(obs_dim, act_dim) of the task."""
        return self._envs.obs_dim, self._envs.act_dim

    def columns(self, table: str) -> list[str]:
        """The columns of a table, in order."""
        if table == "evals":
            episodes = [f"return_{k}" for k in range(self._evaluator.episodes)]
            rate = [] if self._success is None else ["success"]
            return ["step", "mean", "std", *rate, *episodes, "seconds"]
        logged = self._learner.logged
        return ["step", "episode", "return", "length", "updates", "seconds", "steps_per_second", *logged]

    def run(self) -> Iterator[Row | Tick | SeedFailed | Save]:
        """Train to the end and yield events.

        When the last seed fails, raises its error: FloatingPointError, which names the diverged quantity and the step,
        EnvironmentFault or EvaluationFault.
        """
        clock, envs = self.clock, self._envs
        last_tick, last_step = clock.total, self.step
        yield from self._failed.events()
        yield from self._failed.add(failures.of_environments(envs, self.step))
        if self.step and self._evaluation_is_due(self.step):  # a checkpoint precedes the evaluation of its step
            self._evaluate(self.step)
        for step in range(self.step + 1, self.steps + 1):
            obs = envs.obs
            action = self._act(obs, step)
            yield from self._failed.add(failures.of_actions(action, self._learner, self._failed, step))
            envs.send(action)
            if step > self._config.random_steps and self._replay.size >= 1:
                self._update(step)  # while the environments step
            with clock.on("environment"):
                result = envs.receive()
            yield from self._failed.add(failures.of_environments(envs, step))
            ended = result.terminated | result.truncated
            with clock.on("replay"):
                self._replay.add(obs, action, result.reward, result.next_obs, result.terminated, result.truncated)
            if self._learner.observes:
                self._observe(obs, action, result, ended)
            self._returns += result.reward
            for index in self._training():
                self._actions[index].append(action[index])
            evaluate = self._evaluation_is_due(step)
            if evaluate or ended.any():
                yield from self._failed.add(failures.of_losses(self._learner, self._training(), step))
            for index in np.flatnonzero(ended).tolist():
                if index not in self._failed:
                    yield self._episode_row(index, step)
                self._returns[index] = 0.0
                self._actions[index] = []
                self._learner.begin_episode(index)
            self.step = step
            if self._stopping or (self._save_every and (step % self._save_every == 0 or step == self.steps)):
                if not self._evaluations_end():
                    return
                yield from self._evaluated(wait=True)
                yield Save(step)
                if self._stopping:
                    return
            if evaluate:
                self._evaluate(step)
            yield from self._evaluated()
            if clock.total - last_tick >= TICK_SECONDS or step == self.steps:
                now = clock.total
                yield Tick(step, (step - last_step) / (now - last_tick))
                last_tick, last_step = now, step
        if self._evaluations_end():
            yield from self._evaluated(wait=True)
            self.finished = True

    def stop(self) -> None:
        """Make `run` end after the current step, with a last `Save`.

        There is no `Save` if evaluations in other processes do not end in time. They are then repeated on resume.
        """
        self._stopping = True

    def close(self) -> None:
        """Close the environments."""
        self._envs.close()
        self._evaluator.close()

    def weights(self, index: int) -> State:
        """The state_dict of a seed's agent, on the CPU."""
        return self._learner.weights(index)

    def state(self, index: int) -> State:
        """Everything that is needed to resume the training of a seed, except the transitions."""
        description = self._failed.describe(index)
        actions = np.array(self._actions[index], np.float32).reshape(-1, self._envs.act_dim)
        episode = {
            "begun": torch.tensor(self._envs.episodes[index]),
            "actions": torch.from_numpy(actions),
            "obs": torch.from_numpy(self._envs.obs[index].copy()),
            "return": torch.tensor(self._returns[index], dtype=torch.float64),
            "lost": torch.tensor(list(description.encode()), dtype=torch.uint8),
        }
        branches = {
            "learner": self._learner.state(index),
            "draws": self._replay.draws(index),
            "episode": episode,
            "clock": {name: torch.tensor(each, dtype=torch.float64) for name, each in self.clock.split().items()},
            "group": {"stacked": torch.tensor(self._stacked, dtype=torch.int64)},
        }
        return flat(branches, step=self.step)

    @property
    def held(self) -> int:
        """Transitions of each seed that the replay holds."""
        return self._replay.size

    def transitions(self, index: int, start: int) -> State:
        """A seed's transitions from number `start` on, or from the oldest one held."""
        return self._replay.chunk(index, max(start, self._replay.added - self._replay.size))

    def restore(self, states: Sequence[State], transitions: Sequence[Sequence[State]]) -> list[str]:
        """Continue from the `state` and `transitions` of every seed. Call it before `run`.

        Returns the reasons, one line each, why the numbers will differ from those of an uninterrupted run.
        """
        self.step = int(states[0]["step"])
        self._learner.restore([under("learner", state) for state in states])
        self._replay.refill(transitions)
        self._replay.restore_draws([under("draws", state) for state in states])
        for generator in self._random_actions:
            generator.uniform(size=(min(self.step, self._config.random_steps), self._envs.act_dim))
        episodes = [under("episode", state) for state in states]
        for index, episode in enumerate(episodes):
            self._failed.restore(index, bytes(episode["lost"].tolist()).decode())
        actions = [episode["actions"].numpy() for episode in episodes]
        self._envs.restore([int(episode["begun"]) for episode in episodes], actions)
        self._actions = [list(each) for each in actions]
        self._returns[:] = [float(episode["return"]) for episode in episodes]
        self.clock.restore({name: float(each) for name, each in under("clock", states[0]).items()})
        return [*self._different_noise(states[0]["group.stacked"].tolist()), *self._different_observations(episodes)]

    @property
    def _stacked(self) -> list[int]:
        """The seeds that share one noise stream."""
        return self.seeds if self.kind == "stacked" else []

    def _different_noise(self, before: list[int]) -> Iterator[str]:
        if before != self._stacked:
            was, now = (
                "stacked with " + ",".join(map(str, seeds)) if seeds else "separate"
                for seeds in (before, self._stacked)
            )
            yield f"seeds {','.join(map(str, self.seeds))} resume with different noise: {was} before, {now} now"

    def _different_observations(self, episodes: Sequence[State]) -> Iterator[str]:
        for index in self._training():
            same = np.array_equal(self._envs.obs[index], episodes[index]["obs"].numpy())
            if not same and index not in self._envs.faults:
                reason = "the environment returns a different observation after the same seed and actions"
                yield f"seed {self.seeds[index]} cannot resume exactly: {reason}"

    def _training(self) -> list[int]:
        """The seeds that have not failed."""
        return [index for index in range(len(self.seeds)) if index not in self._failed]

    def _act(self, obs: np.ndarray, step: int) -> np.ndarray:
        """Actions [S, act_dim] for obs [S, obs_dim]: first uniform in [-1, 1], later from the policies."""
        with self.clock.on("act"):
            if step <= self._config.random_steps:
                size = self._envs.act_dim
                actions = [generator.uniform(-1.0, 1.0, size) for generator in self._random_actions]
                return np.stack(actions).astype(np.float32)
            action = self._learner.act(torch.from_numpy(obs).to(self._device)).float().cpu().numpy()
        return action.clip(-1.0, 1.0)  # replay stores the action that the environment receives

    def _update(self, step: int) -> None:
        """The updates of one environment step. They use no data of the current step."""
        first = 0 if self._learner.updates else self._learner.first_updates
        for _ in range(first + self._config.updates_per_step):
            with self.clock.on("replay"):
                batch = self._on_device(self._replay.sample((step - 1) / self.steps))
            with self.clock.on("update"):
                self._learner.update(batch)

    def _observe(self, obs: np.ndarray, action: np.ndarray, result: Step, ended: np.ndarray) -> None:
        """Call `observe` of the agent of each seed with its transition."""
        with self.clock.on("update"):
            parts = (obs, action, result.reward, result.next_obs, ~result.terminated, ended)
            self._learner.observe(
                Transition(*(torch.from_numpy(part.astype(np.float32)).to(self._device) for part in parts))
            )

    def _on_device(self, batch: Batch) -> Batch:
        if self._replay.device == self._device:
            return batch
        return Batch(*(part.pin_memory().to(self._device, non_blocking=True) for part in batch))

    def _episode_row(self, index: int, step: int) -> Row:
        """The episode of a seed that has ended, with the means of its losses since the last episode."""
        total = self.clock.total
        values = {
            "step": step,
            "episode": self._envs.episodes[index] - 1,
            "return": float(self._returns[index]),
            "length": len(self._actions[index]),
            "updates": self._learner.updates,
            "seconds": total,
            "steps_per_second": step / total,
            **self._logged_means(index),
        }
        return Row("train", self.seeds[index], values)

    def _logged_means(self, index: int) -> dict[str, float]:
        """The means. A name that was not logged in the rehearsal has no column; it is dropped with a message."""
        means = self._learner.means(index)
        self._learner.clear_means(index)
        for name in means.keys() - set(self._learner.logged) - self._dropped:
            print(f"{name} is not recorded: the first updates did not log it", file=sys.stderr)
            self._dropped.add(name)
        return {name: value for name, value in means.items() if name not in self._dropped}

    def _evaluation_is_due(self, step: int) -> bool:
        return step % self._evaluate_every == 0 or step == self.steps

    def _evaluate(self, step: int) -> None:
        """Submit the weights of every seed for evaluation."""
        with self.clock.on("evaluation"):
            for index in self._training():
                self._evaluator.submit(self.seeds[index], step, self._learner.weights(index), self.clock.total)

    def _evaluations_end(self) -> bool:
        """Wait for the submitted evaluations. False if that takes too long for a run that was asked to stop."""
        with self.clock.on("evaluation"):
            asked = None
            while not self._evaluator.idle(TICK_SECONDS):
                if self._stopping:
                    asked = asked or time.monotonic()
                    if time.monotonic() - asked > STOP_SECONDS:
                        return False
        return True

    def _evaluated(self, wait: bool = False) -> Iterator[Row | SeedFailed]:
        """Results of the evaluations that have finished, or with `wait` of all. A failed one fails its seed."""
        with self.clock.on("evaluation"):
            finished = self._evaluator.collect(wait)
        for done in finished:
            if isinstance(done, Failed):
                traceback.print_exception(type(done.error), done.error, done.error.__traceback__)
                yield from self._failed.add({self.seeds.index(done.seed): failures.of_evaluation(done)})
            else:
                yield self._evaluation_row(done)

    def _evaluation_row(self, done: Evaluation) -> Row:
        values = {
            "step": done.step,
            "mean": float(done.returns.mean()),
            "std": float(done.returns.std()),
            **{f"return_{k}": float(value) for k, value in enumerate(done.returns)},
            "seconds": done.seconds,
        }
        if self._success is not None:
            values["success"] = float((done.returns >= self._success).mean())
        return Row("evals", done.seed, values)
