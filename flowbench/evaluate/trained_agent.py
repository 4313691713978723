"""Evaluates the weights that a run has kept."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import algos
import suites
from algos.agent import Agent
from flowbench.common.errors import UsageError, printable
from flowbench.common.rng import stream_seed
from flowbench.evaluate import video as videos
from flowbench.plan import overrides
from flowbench.store.records import AlgoInfo
from flowbench.store.weights import Trained
from flowbench.train.evaluation import Episodes
from flowbench.train.vecenv import Env


@dataclass(frozen=True)
class EvaluationResult:
    """The result of an evaluation; its fields are the keys of the JSON output."""

    source: str  # the file or folder of the weights
    task: str
    algo: str  # the variant's label
    seed: int  # of the run
    step: int
    evaluation_seed: int
    episodes: int
    mean: float  # of the returns, as are std, min and max
    score: float
    std: float
    min: float
    max: float
    length: float  # mean, in steps
    returns: list[float]
    lengths: list[int]


def evaluate(
    trained: Trained,
    episodes: int | None = None,
    seed: int | None = None,
    video: Path | None = None,
    on_step: Callable[[int], None] = lambda step: None,
    algo: str | None = None,
) -> EvaluationResult:
    """Evaluate weights as training does, by default for as many episodes as the run's evaluations have.

    Without a `seed` the episodes' seeds differ from those used in training. With the run's own seed and number of
    episodes, the run's evaluation at this step is repeated exactly. `video` records the first episode, and `on_step`
    receives its current step. `algo` names the file of an algorithm that is not part of flowbench.
    Raises UsageError (or a ValueError of suites or algos) if the weights cannot be used here.
    """
    record = trained.run
    if video:
        videos.check(video)
    agent = _agent(trained, algo)
    torch.set_num_threads(record.threads or 1)
    task = record.task.task()
    evaluation_seed = stream_seed(record.seed, "trial") if seed is None else seed
    paths = iter([video] if video else [])

    def make() -> Env:
        path = next(paths, None)
        return videos.record(task, path, on_step) if path else suites.make(task)

    number = episodes or record.protocol.episodes
    with (
        redirect_stdout(sys.stderr),  # some simulators print
        closing(Episodes(make, partial(_check_sizes, trained, agent), number)) as played,
    ):
        returns, lengths = played.play(evaluation_seed, trained.step, trained.weights)
    mean = float(returns.mean())
    return EvaluationResult(
        source=str(trained.source),
        task=task.name,
        algo=record.algo.label,
        seed=record.seed,
        step=trained.step,
        evaluation_seed=evaluation_seed,
        episodes=number,
        mean=mean,
        score=task.score.normalise(mean),
        std=float(returns.std()),
        min=float(returns.min()),
        max=float(returns.max()),
        length=float(lengths.mean()),
        returns=returns.tolist(),
        lengths=lengths.tolist(),
    )


def _agent(trained: Trained, algo: str | None) -> Agent[Any]:
    """The agent with its weights."""
    entry = find_algorithm(trained.run.algo, algo)
    algorithm = entry.load()
    if trained.run.algo.code not in (None, entry.code()):
        text = f"flowbench: the code of {entry.name} has changed since {str(trained.source)!r} was trained"
        print(printable(text), file=sys.stderr)
    try:
        config = overrides.restore(algorithm.Config, trained.run.config)
        agent = algorithm(trained.obs_dim, trained.act_dim, config)
        agent.load_state_dict(trained.weights)
    except (TypeError, ValueError, RuntimeError) as error:
        name = trained.run.algo.name
        raise UsageError(f"{str(trained.source)!r} does not fit the {name} of this flowbench: {error}") from error
    return agent


def find_algorithm(recorded: AlgoInfo, given: str | None) -> algos.Entry:
    """The algorithm of a record, unchanged since the training: one of flowbench's own, or the given file.

    A file that only the record names is not executed: a results folder from elsewhere must not run code.
    """
    name, target = recorded.name, recorded.target
    if algos.Entry(name, target).path is not None:
        if given is None:
            raise UsageError(f"algorithm {name!r} was trained from a file, {target}: give it with --algo FILE.py:CLASS")
        entry = algos.find(given)
        if entry.path is None:
            raise UsageError(f"--algo {given} is not a file: algorithm {name!r} was trained from {target}")
        target = entry.target
    else:
        if given is not None:
            raise UsageError(f"--algo {given}: the run's algorithm {name!r} is part of flowbench, not a user's file")
        entry = algos.find(name)
        if entry.target != target:
            raise UsageError(f"algorithm {name!r} was {target} when it was trained, and is {entry.target} here")
    if entry.digest() != recorded.sha256:  # checked before any of its code runs
        raise UsageError(f"algorithm {name!r}: {target} was changed since it was trained")
    return entry


def _check_sizes(trained: Trained, agent: Agent[Any], obs_dim: int, act_dim: int) -> Agent[Any]:
    """The agent. Raises UsageError if the task has other sizes."""
    if (obs_dim, act_dim) != (trained.obs_dim, trained.act_dim):
        sizes = f"{trained.obs_dim} and {trained.act_dim}, not {obs_dim} and {act_dim}"
        raise UsageError(f"{str(trained.source)!r} has weights for observations and actions of {sizes}")
    return agent
