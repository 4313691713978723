"""The training loop: environments, replay and learner, in one loop that knows no algorithm by name.

It writes nothing. `Trainer.run` yields what happened, and the caller keeps it.
"""

from __future__ import annotations

import math
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from algos.agent import Agent, Batch, Config
from flowbench.common.errors import describe
from flowbench.common.tensors import State, flat, under
from flowbench.train import seed_learners
from flowbench.train.clock import Clock
from flowbench.train.evaluation import Evaluation, EvaluationFault, Evaluator, Failed
from flowbench.train.events import Lost, Row, Save, Tick
from flowbench.train.placement import Places
from flowbench.train.replay import Replay
from flowbench.train.rng import stream_seed
from flowbench.train.vecenv import Env, EnvironmentFault, make_vecenv

TICK_SECONDS = 0.5
STOP_SECONDS = 10.0  # how long a run that is asked to stop waits for evaluations beside it
MOST_OF_A_GPU = 0.7
LOSSES = {kind.__name__: kind for kind in (FloatingPointError, EnvironmentFault, EvaluationFault)}  # of a seed


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
        places: Places,
        build_agent: Callable[[int, int], Agent[Any]] | None = None,
        save_every: int | None = None,
        success: float | None = None,
    ) -> None:
        """`steps`, `evaluate_every` and `save_every` count environment steps of the task, after action repeat.

        An evaluation's episode is a success from the return `success` on; without one nothing is said of it.

        With worker processes, `make_env` and `build_agent` (obs_dim, act_dim -> agent) go to them and must be
        picklable.
        """
        self.seeds = list(seeds)
        self.steps = steps
        self.step = 0  # steps taken
        self.finished = False  # every step is taken and every evaluation made
        self.clock = Clock()
        self._save_every = save_every
        self._success = success
        self._stopping = False
        self._config = config
        self._evaluate_every = evaluate_every
        self._device = places.device
        build_agent = build_agent or partial(algorithm, config=config)
        self._evaluator = Evaluator(make_env, build_agent, evaluation_episodes, places.evaluation)
        episode_seed = partial(_episode_seed, self.seeds)
        self._envs = make_vecenv(make_env, len(self.seeds), episode_seed, places.environments)
        obs_dim, act_dim = self._envs.obs_dim, self._envs.act_dim
        self._random_actions = [np.random.default_rng(stream_seed(seed, "random-actions")) for seed in self.seeds]
        self._learner = seed_learners.build(algorithm, obs_dim, act_dim, config, self.seeds, places)
        self.replay_device = _replay_device(places, Replay.bytes_needed(self.seeds, obs_dim, act_dim, config, steps))
        self._replay = Replay(self.seeds, obs_dim, act_dim, config, steps, self.replay_device)
        self._returns = np.zeros(len(self.seeds))
        self._taken: list[list[np.ndarray]] = [[] for _ in self.seeds]  # actions of the episodes in flight
        self._lost: dict[int, Exception] = {}  # slots that came to nothing, and why
        self._dropped: set[str] = set()

    @property
    def kind(self) -> str:
        """How seeds are trained: "separate" or "stacked"."""
        return self._learner.kind

    @property
    def note(self) -> str:
        """Why seeds that should be stacked are not; empty where there is nothing to say."""
        return self._learner.note

    @property
    def parameter_count(self) -> int:
        """Trained parameters of one seed's agent."""
        return self._learner.parameters

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

    def run(self) -> Iterator[Row | Tick | Lost | Save]:
        """Train to the end, yielding rows as they come and a tick now and then.

        Once no seed is left to train, raises what the last one came to nothing by: FloatingPointError, naming the term
        and the step, EnvironmentFault or EvaluationFault.
        """
        clock, envs = self.clock, self._envs
        last_tick, last_step = clock.total, self.step
        yield from self._tell_lost(list(self._lost))
        yield from self._lose(self._environment_faults(self.step))
        if self.step and self._evaluation_is_due(self.step):  # a checkpoint is made before the evaluation of its step
            self._evaluate(self.step)
        for step in range(self.step + 1, self.steps + 1):
            obs = envs.obs
            action = self._act(obs, step)
            yield from self._lose(self._not_finite_actions(action, step))
            envs.send(action)
            if step > self._config.random_steps and self._replay.size >= 1:
                self._update(step)
            with clock.on("environment"):
                result = envs.receive()
            yield from self._lose(self._environment_faults(step))
            ended = result.terminated | result.truncated
            with clock.on("replay"):
                self._replay.add(obs, action, result.reward, result.next_obs, result.terminated, result.truncated)
            self._returns += result.reward
            for slot, taken in enumerate(self._taken):
                if slot not in self._lost:
                    taken.append(action[slot])
            evaluate = self._evaluation_is_due(step)
            if evaluate or ended.any():
                yield from self._lose(self._not_finite_means(range(len(self.seeds)), step))
            for slot in np.flatnonzero(ended).tolist():
                if slot not in self._lost:
                    yield self._episode_row(slot, step)
                self._returns[slot] = 0.0
                self._taken[slot] = []
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
        """Let `run` come to an end after the step it is in, with a last `Save`.

        Without it where evaluations beside the training do not end in time: they are made again from the `Save` before.
        """
        self._stopping = True

    def weights(self, slot: int) -> State:
        """The state_dict of a seed's agent, on the CPU."""
        return self._learner.weights(slot)

    def state(self, slot: int) -> State:
        """Everything of a seed that its training goes on from, but for the transitions."""
        lost = describe(self._lost[slot]) if slot in self._lost else ""
        episode = {
            "begun": torch.tensor(self._envs.episodes[slot]),
            "actions": torch.from_numpy(np.array(self._taken[slot], np.float32).reshape(-1, self._envs.act_dim)),
            "obs": torch.from_numpy(self._envs.obs[slot].copy()),
            "return": torch.tensor(self._returns[slot], dtype=torch.float64),
            "lost": torch.tensor(list(lost.encode()), dtype=torch.uint8),
        }
        stacked = torch.tensor(self._stacked, dtype=torch.int64)
        clock = {name: torch.tensor(each, dtype=torch.float64) for name, each in self.clock.split().items()}
        branches = {
            "learner": self._learner.state(slot),
            "draws": self._replay.draws(slot),
            "episode": episode,
            "clock": clock,
            "group": {"stacked": stacked},
        }
        return flat(branches, step=self.step)

    @property
    def held(self) -> int:
        """Transitions that replay holds of a seed."""
        return self._replay.size

    def transitions(self, slot: int, start: int) -> State:
        """A seed's transitions from number `start` on, or from the oldest held."""
        return self._replay.chunk(slot, max(start, self._replay.added - self._replay.size))

    def restore(self, states: Sequence[State], transitions: Sequence[Sequence[State]]) -> list[str]:
        """Go on, before anything was run, from what `state` and `transitions` gave of every seed.

        Returns what keeps it from giving the numbers of a run that never stopped, a line each.
        """
        self.step = int(states[0]["step"])
        self._learner.restore([under("learner", state) for state in states])
        self._replay.refill(transitions)
        self._replay.restore_draws([under("draws", state) for state in states])
        for generator in self._random_actions:
            generator.uniform(size=(min(self.step, self._config.random_steps), self._envs.act_dim))
        episodes = [under("episode", state) for state in states]
        for slot, episode in enumerate(episodes):
            if lost := bytes(episode["lost"].tolist()).decode():
                kind, _, said = lost.partition(": ")
                self._lost[slot] = LOSSES[kind](said)
                self._envs.retire(slot)
        actions = [episode["actions"].numpy() for episode in episodes]
        self._envs.restore([int(episode["begun"]) for episode in episodes], actions)
        for slot, episode in enumerate(episodes):
            self._taken[slot] = list(actions[slot])
            self._returns[slot] = float(episode["return"])
        self.clock.restore({name: float(each) for name, each in under("clock", states[0]).items()})
        return [*self._other_noise(states[0]["group.stacked"].tolist()), *self._other_observations(episodes)]

    @property
    def _stacked(self) -> list[int]:
        """The seeds whose noise comes from one stream."""
        return self.seeds if self.kind == "stacked" else []

    def _other_noise(self, before: list[int]) -> Iterator[str]:
        if before != self._stacked:
            was, now = (
                "stacked with " + ",".join(map(str, seeds)) if seeds else "apart" for seeds in (before, self._stacked)
            )
            yield f"seeds {','.join(map(str, self.seeds))} go on with other noise: {was} before, {now} now"

    def _other_observations(self, episodes: Sequence[State]) -> Iterator[str]:
        for slot, episode in enumerate(episodes):
            same = np.array_equal(self._envs.obs[slot], episode["obs"].numpy())
            if not same and slot not in self._lost and slot not in self._envs.faults:
                said = "the environment gives another observation after the same seed and actions"
                yield f"seed {self.seeds[slot]} cannot go on exactly: {said}"

    def close(self) -> None:
        """Close the environments."""
        self._envs.close()
        self._evaluator.close()

    def _act(self, obs: np.ndarray, step: int) -> np.ndarray:
        """Actions [S, act_dim] for obs [S, obs_dim]: uniform in [-1, 1] at first, then the policies'."""
        with self.clock.on("act"):
            if step <= self._config.random_steps:
                size = self._envs.act_dim
                actions = [generator.uniform(-1.0, 1.0, size) for generator in self._random_actions]
                return np.stack(actions).astype(np.float32)
            action = self._learner.act(torch.from_numpy(obs).to(self._device)).float().cpu().numpy()
        return action.clip(-1.0, 1.0)  # what replay holds is what the environment is given

    def _update(self, step: int) -> None:
        """The updates of one environment step; they need nothing of the step in flight."""
        for _ in range(self._config.updates_per_step):
            with self.clock.on("replay"):
                batch = self._on_device(self._replay.sample((step - 1) / self.steps))
            with self.clock.on("update"):
                self._learner.update(batch)

    def _on_device(self, batch: Batch) -> Batch:
        if self.replay_device == self._device:
            return batch
        return Batch(*(part.pin_memory().to(self._device, non_blocking=True) for part in batch))

    def _environment_faults(self, step: int) -> dict[int, Exception]:
        """Slots whose environment has failed."""
        found: dict[int, Exception] = {}
        for slot, fault in self._envs.faults.items():
            found[slot] = EnvironmentFault(f"{fault}, at step {step}")
            found[slot].__cause__ = self._envs.deaths.get(slot)
        return found

    def _not_finite_actions(self, action: np.ndarray, step: int) -> dict[int, Exception]:
        """Slots whose policy chose no numbers, which are then replaced by zeros, with what to say of it."""
        wrong = ~np.isfinite(action).all(axis=1)
        if not wrong.any():
            return {}
        action[wrong] = 0.0
        slots = [int(slot) for slot in np.flatnonzero(wrong)]
        said = FloatingPointError(f"the policy chose an action that is not finite at step {step}")
        return {**dict.fromkeys(slots, said), **self._not_finite_means(slots, step)}

    def _not_finite_means(self, slots: Iterable[int], step: int) -> dict[int, Exception]:
        """Slots with a loss that has become NaN or infinite, with what to say of it."""
        found: dict[int, Exception] = {}
        for slot in slots:
            for name, value in self._learner.means(slot).items() if slot not in self._lost else ():
                if not math.isfinite(value):
                    found.setdefault(slot, FloatingPointError(f"{name} became {value} by step {step}"))
        return found

    def _lose(self, lost: Mapping[int, Exception]) -> Iterator[Lost]:
        """Give seeds up; their environments are not stepped any more."""
        news = [slot for slot in lost if slot not in self._lost]
        for slot in news:
            self._envs.retire(slot)
        self._lost.update({slot: lost[slot] for slot in news})
        return self._tell_lost(news)

    def _tell_lost(self, slots: Sequence[int]) -> Iterator[Lost]:
        for slot in slots:
            if len(self._lost) == len(self.seeds) and slot == slots[-1]:
                raise self._lost[slot]
            yield Lost(self.seeds[slot], self._lost[slot])

    def _episode_row(self, slot: int, step: int) -> Row:
        """The finished episode of one seed, with the means of its losses since the last one."""
        total = self.clock.total
        values = {
            "step": step,
            "episode": self._envs.episodes[slot] - 1,
            "return": float(self._returns[slot]),
            "length": len(self._taken[slot]),
            "updates": self._learner.updates,
            "seconds": total,
            "steps_per_second": step / total,
            **self._logged_means(slot),
        }
        return Row("train", self.seeds[slot], values)

    def _logged_means(self, slot: int) -> dict[str, float]:
        """The means; a name that the rehearsal did not show has no column and is dropped with a line."""
        means = self._learner.means(slot)
        self._learner.clear_means(slot)
        for name in means.keys() - set(self._learner.logged) - self._dropped:
            print(f"{name} is not kept: it was not logged from the first updates on", file=sys.stderr)
            self._dropped.add(name)
        return {name: value for name, value in means.items() if name not in self._dropped}

    def _evaluation_is_due(self, step: int) -> bool:
        return step % self._evaluate_every == 0 or step == self.steps

    def _evaluations_end(self) -> bool:
        """Wait for the evaluations under way; False when that takes too long for a run that is asked to stop."""
        with self.clock.on("evaluation"):
            asked = None
            while not self._evaluator.idle(TICK_SECONDS):
                if self._stopping:
                    asked = asked or time.monotonic()
                    if time.monotonic() - asked > STOP_SECONDS:
                        return False
        return True

    def _evaluated(self, wait: bool = False) -> Iterator[Row | Lost]:
        """Rows of the evaluations that are finished, or with `wait` of all; a seed whose evaluation failed is lost."""
        with self.clock.on("evaluation"):
            finished = self._evaluator.collect(wait)
        for done in finished:
            if isinstance(done, Failed):
                traceback.print_exception(type(done.error), done.error, done.error.__traceback__)
                said = _said(done)
                said.__cause__ = done.error
                yield from self._lose({self.seeds.index(done.seed): said})
            else:
                yield self._evaluation_row(done)

    def _evaluate(self, step: int) -> None:
        """Hand every seed's weights over to be evaluated."""
        with self.clock.on("evaluation"):
            for slot, seed in enumerate(self.seeds):
                if slot not in self._lost:
                    self._evaluator.submit(seed, step, self._learner.weights(slot), self.clock.total)

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


def _said(failed: Failed) -> Exception:
    """What a seed is lost by whose evaluation failed: a policy that gives no numbers has diverged there, too."""
    where = f"the evaluation of step {failed.step}"
    if isinstance(failed.error, FloatingPointError):
        return FloatingPointError(f"{failed.error}, in {where}")
    return EvaluationFault(f"{where}: {describe(failed.error)}")


def _episode_seed(seeds: Sequence[int], slot: int, episode: int) -> int:
    return stream_seed(seeds[slot], "training", episode)


def _replay_device(places: Places, needed: int) -> torch.device:
    """The device itself, or the host's memory for a replay of more bytes than most of what may be taken there.

    Groups that share the device may all be about to take theirs: each counts on its share alone.
    """
    device = places.device
    if device.type != "cuda":
        return device
    free, total = torch.cuda.mem_get_info(device)
    return device if needed < MOST_OF_A_GPU * min(free, total // places.sharers) else torch.device("cpu")
