"""`train`: one agent on one environment, from a script or a notebook."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import gymnasium
import numpy as np
import pandas as pd
import torch
from gymnasium import spaces
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import suites
from algos.agent import Agent, Memory
from flowbench.common.errors import UsageError, describe, one_of
from flowbench.common.numbers import whole
from flowbench.common.system import DEVICES, PRECISIONS
from flowbench.learners import placement
from flowbench.learners.placement import Placement
from flowbench.plan.cells import Protocol, Variant
from flowbench.plan.expand import MAX_SEED, variants
from flowbench.plan.overrides import split_outside_brackets
from flowbench.train.build import build_trainer
from flowbench.train.evaluation import act
from flowbench.train.events import Row, SeedFailed, Tick
from suites.spaces import standardise

Env: TypeAlias = "gymnasium.Env[Any, Any]"
BARS = (TextColumn("{task.description}"), BarColumn(), TextColumn("step {task.completed:,.0f} of {task.total:,.0f}"))


@dataclass(frozen=True)
class TrainedAgent:
    """A trained agent with the tables of its training."""

    algo: str  # the variant's label
    agent: Agent[Any]  # a torch module on the CPU; it sees float32 observations [N, obs_dim], actions are in [-1, 1]
    config: Any  # the algorithm's dataclass
    evals: pd.DataFrame  # one row for each evaluation: step, mean, std, the return of each episode
    episodes: pd.DataFrame  # one row for each training episode
    action_space: spaces.Box  # of the environment
    _memory: list[Memory | None] = field(default_factory=list, repr=False)  # of the current episode

    def begin_episode(self) -> None:
        """The next observation is the first of an episode. A policy with memory forgets the episode before."""
        self._memory.clear()

    def act(self, obs: Any) -> np.ndarray:
        """The action, without exploration noise, for one observation of the environment, in its own bounds."""
        row = torch.from_numpy(np.array(obs, np.float32)[None])  # a copy: a memory may keep it
        with torch.no_grad():
            before = self._memory[0] if self._memory else self.agent.memory(row)
            chosen, after = act(self.agent, row, before)
        self._memory[:] = [after]
        action = chosen[0].numpy()
        low, high = self.action_space.low, self.action_space.high
        scaled = low + (np.clip(action, -1.0, 1.0).astype(np.float64) + 1.0) / 2.0 * (high - low)
        inside: np.ndarray = np.clip(scaled, low, high).astype(self.action_space.dtype)
        return inside


def train(
    algo: str,
    env: Env | str | Callable[[], Env],
    *,
    steps: int | float | str = 100_000,
    seed: int = 0,
    set: str | Sequence[str] | Mapping[str, Any] = (),
    every: int | None = None,
    episodes: int = 5,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> TrainedAgent:
    """Train one agent. `algo`, `steps`, `set`, `device` and `precision` are as in `run`.

    `env` is a gymnasium environment, its id, or a function that makes one. An environment is copied for training and
    for evaluation, and is neither stepped nor closed. Its observations and actions must be flat and continuous (Box),
    and its episodes must end. The agent is evaluated every `every` steps (default: a twentieth of `steps`) for
    `episodes` episodes. Raises a ValueError for a mistake, and what the environment raises.
    """
    number = whole("--steps", steps) or 1
    protocol = Protocol(number, whole("every", every) or max(1, number // 20), whole("episodes", episodes) or 1)
    if protocol.every > number:
        raise UsageError(f"every {protocol.every} is more than the {number} steps of the training")
    if not (isinstance(seed, int) and 0 <= seed <= MAX_SEED):
        raise UsageError(f"seed {seed!r} is not a whole number from 0 to {MAX_SEED}")
    variant = _variant(algo, set, protocol)
    make_env, acts = _factory(env)
    device = "cuda" if device == "gpu" else device
    one_of("device", device, DEVICES)
    one_of("precision", precision, PRECISIONS)
    where = placement.device(device)
    best = "tf32" if where.type == "cuda" else "float32"
    spread = Placement(where, precision=best if precision == "auto" else precision)
    spread.apply()
    algorithm = variant.entry.load()
    trainer = build_trainer(
        make_env, algorithm, variant.config, [seed], steps=protocol.steps, evaluate_every=protocol.every,
        evaluation_episodes=protocol.episodes, placement=spread,
    )  # fmt: skip
    rows: dict[str, list[dict[str, float]]] = {"evals": [], "train": []}
    shown_on = Console(stderr=True)
    with closing(trainer), Progress(*BARS, TimeRemainingColumn(), console=shown_on, disable=not progress) as bar:
        shown = bar.add_task(variant.label, total=protocol.steps)
        for event in trainer.run():
            if isinstance(event, Row):
                rows[event.table].append(event.values)
                if event.table == "evals":
                    bar.update(shown, description=f"{variant.label}, return {event.values['mean']:.1f}")
            elif isinstance(event, Tick):
                bar.update(shown, completed=event.step)
            elif isinstance(event, SeedFailed):
                raise event.error
        bar.update(shown, completed=trainer.step)
    agent = algorithm(*trainer.sizes, variant.config)
    agent.load_state_dict(trainer.weights(0))
    evals, own = (pd.DataFrame(rows[name], columns=trainer.columns(name)) for name in ("evals", "train"))
    return TrainedAgent(variant.label, agent.eval(), variant.config, evals, own, acts)


def _variant(algo: str, set: str | Sequence[str] | Mapping[str, Any], protocol: Protocol) -> Variant:
    """The algorithm with every hyperparameter resolved. Raises UsageError or AlgorithmError."""
    if len(split_outside_brackets(algo)) != 1:
        raise UsageError(f"algo {algo!r}: one algorithm is trained here; flowbench.run trains several")
    task = suites.Task("env", "gymnasium", 1, suites.Score(0.0, 1.0))
    evaluation = suites.Evaluation(protocol.every, protocol.episodes)
    suite = suites.Suite("env", "One environment", (task,), protocol.steps, evaluation)
    settings = [f"{key}={value}" for key, value in set.items()] if isinstance(set, Mapping) else set
    return variants(suite, [algo], [settings] if isinstance(settings, str) else settings, protocol)[0]


def _factory(env: Env | str | Callable[[], Env]) -> tuple[Callable[[], Env], spaces.Box]:
    """A function that makes environments with the interface of `suites.make`, and the actions of the user's own."""
    task = suites.Task(env if isinstance(env, str) else "env", "gymnasium", 1, suites.Score(0.0, 1.0))
    if isinstance(env, str):
        suites.make(task).close()  # an id that does not exist, or has no time limit
    make: Callable[[], Env]
    if isinstance(env, str):
        make = lambda: gymnasium.make(env, disable_env_checker=True)  # noqa: E731
    elif isinstance(env, gymnasium.Env):
        make = lambda: _copy(env)  # noqa: E731
    elif callable(env):
        make = env
    else:
        raise UsageError(f"env {env!r} is not a gymnasium environment, its id, or a function that makes one")
    first = make()
    if not isinstance(first, gymnasium.Env):
        raise UsageError(f"env: the function made {first!r}, which is not a gymnasium environment")
    acts = _check_spaces(first)
    standardise(first, task).close()
    return lambda: standardise(make(), task), acts


def _copy(env: Env) -> Env:
    try:
        return copy.deepcopy(env)
    except Exception as error:  # third-party code may raise anything
        reason = f"it cannot be copied ({describe(error)})"
        raise UsageError(f"env: {reason}; give a function that makes it, such as lambda: MyEnv()") from error


def _check_spaces(env: Env) -> spaces.Box:
    """The action space. Raises UsageError for spaces that are not flat and continuous."""
    for what, space in (("observations", env.observation_space), ("actions", env.action_space)):
        if not isinstance(space, spaces.Box) or len(space.shape) != 1 or not np.issubdtype(space.dtype, np.floating):
            raise UsageError(f"env: only flat, continuous (Box) spaces can be trained, and its {what} are {space}")
    assert isinstance(env.action_space, spaces.Box)
    return env.action_space
