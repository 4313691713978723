"""Trials: what trained weights achieve in their task, evaluated once more."""

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
from flowbench.common.errors import UsageError
from flowbench.evaluate import video as filming
from flowbench.plan import overrides
from flowbench.store.records import AlgoInfo
from flowbench.store.weights import Trained
from flowbench.train.evaluation import Episodes
from flowbench.train.rng import stream_seed
from flowbench.train.vecenv import Env


@dataclass(frozen=True)
class Trial:
    """The episodes of a trial, in numbers that JSON can hold."""

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


def run(
    trained: Trained,
    episodes: int | None = None,
    seed: int | None = None,
    video: Path | None = None,
    tell: Callable[[int], None] = lambda steps: None,
    algo: str | None = None,
) -> Trial:
    """Evaluate weights as training does, over as many episodes and with the seeds that the run's protocol gives a seed.

    Without a `seed` they are seeds that training does not use; with the run's own, and its number of episodes, its
    evaluation at this step is repeated. `video` films the first episode, and `tell` hears of the steps filmed. `algo`
    names the file of an algorithm that flowbench does not know.
    Raises UsageError (or a ValueError of the suites and algos) for weights that cannot be used here.
    """
    record = trained.run
    if video:
        filming.check(video)
    agent = _agent(trained, algo)
    torch.set_num_threads(record.threads or 1)
    task = record.task.task()
    evaluation_seed = stream_seed(record.seed, "trial") if seed is None else seed
    cameras = iter([video] if video else [])

    def make() -> Env:
        path = next(cameras, None)
        return _filmed(task, path, tell) if path else suites.make(task)

    number = episodes or record.protocol.episodes
    with (
        redirect_stdout(sys.stderr),  # simulators print
        closing(Episodes(make, partial(_fitting, trained, agent), number)) as played,
    ):
        returns, lengths = played.play(evaluation_seed, trained.step, trained.weights)
    mean = float(returns.mean())
    return Trial(
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
    algorithm = _algorithm(trained.run.algo, algo)
    try:
        config = overrides.restore(algorithm.Config, trained.run.config)
        agent = algorithm(trained.obs_dim, trained.act_dim, config)
        agent.load_state_dict(trained.weights)
    except (TypeError, ValueError, RuntimeError) as error:
        name = trained.run.algo.name
        raise UsageError(f"{str(trained.source)!r} does not fit the {name} of this flowbench: {error}") from error
    return agent


def _algorithm(recorded: AlgoInfo, given: str | None) -> type[Agent[Any]]:
    """The algorithm of a record, as it was trained: a known one, or the file that is given.

    A file is never run because a record names it: what a results folder says must execute nothing.
    """
    name, target = recorded.name, recorded.target
    if algos.Entry(name, target).path is not None:
        if given is None:
            raise UsageError(f"algorithm {name!r} was trained from a file, {target}: give it with --algo FILE.py:CLASS")
        entry = algos.find(given)
        if entry.path is None:
            raise UsageError(f"--algo {given} is no file: algorithm {name!r} was trained from {target}")
        target = entry.target
    else:
        if given is not None:
            raise UsageError(f"--algo {given}: the run's algorithm {name!r} is no file of the user's")
        entry = algos.find(name)
        if entry.target != target:
            raise UsageError(f"algorithm {name!r} was {target} when it was trained, and is {entry.target} here")
    if entry.digest() != recorded.sha256:  # seen to before any of it runs
        raise UsageError(f"algorithm {name!r}: {target} was changed since it was trained")
    return entry.load()


def _fitting(trained: Trained, agent: Agent[Any], obs_dim: int, act_dim: int) -> Agent[Any]:
    """The agent, where it is of the task's sizes."""
    if (obs_dim, act_dim) != (trained.obs_dim, trained.act_dim):
        sizes = f"{trained.obs_dim} and {trained.act_dim}, not {obs_dim} and {act_dim}"
        raise UsageError(f"{str(trained.source)!r} has weights for observations and actions of {sizes}")
    return agent


def _filmed(task: suites.Task, path: Path, tell: Callable[[int], None]) -> Env:
    try:
        env = suites.make(task, render=True)
    except suites.SuiteError:
        raise
    except Exception as error:  # each backend of OpenGL fails in its own way
        raise filming.cannot_draw(error) from error
    return filming.Filmed(env, path, task.action_repeat, tell)
