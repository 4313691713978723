"""Seeds that fail while the other seeds of their group continue: what counts as a failure, and how it is reported."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from flowbench.common.errors import describe
from flowbench.learners.seed_learners import GroupLearner
from flowbench.train.evaluation import EvaluationFault, Failed
from flowbench.train.events import SeedFailed
from flowbench.train.vecenv import EnvironmentFault, ProcessVecEnv, VecEnv

Failures = dict[int, Exception]  # by the index of the seed in its group
ERRORS = {kind.__name__: kind for kind in (FloatingPointError, EnvironmentFault, EvaluationFault)}


class FailedSeeds:
    """The seeds of a group that have failed, by index, with their errors."""

    def __init__(self, seeds: Sequence[int], envs: VecEnv | ProcessVecEnv) -> None:
        self._seeds, self._envs = seeds, envs
        self._errors: Failures = {}

    def __contains__(self, index: int) -> bool:
        return index in self._errors

    def add(self, failures: Mapping[int, Exception]) -> Iterator[SeedFailed]:
        """Stop training these seeds. Returns the events of those that had not failed before."""
        new = [index for index in failures if index not in self._errors]
        for index in new:
            self._envs.retire(index)
            self._errors[index] = failures[index]
        return self._events(new)

    def events(self) -> Iterator[SeedFailed]:
        """The events of all failed seeds. When every seed has failed, raises the last error instead of its event."""
        return self._events(list(self._errors))

    def _events(self, indices: Sequence[int]) -> Iterator[SeedFailed]:
        for index in indices:
            if len(self._errors) == len(self._seeds) and index == indices[-1]:
                raise self._errors[index]
            yield SeedFailed(self._seeds[index], self._errors[index])

    def describe(self, index: int) -> str:
        """The error of a seed in one line, for `restore`. Empty if it has not failed."""
        return describe(self._errors[index]) if index in self._errors else ""

    def restore(self, index: int, description: str) -> None:
        """Mark a seed as failed, from what `describe` returned."""
        if description:
            kind, _, message = description.partition(": ")
            self._errors[index] = ERRORS[kind](message)
            self._envs.retire(index)


def of_environments(envs: VecEnv | ProcessVecEnv, step: int) -> Failures:
    """The seeds whose environment has failed."""
    found: Failures = {}
    for index, fault in envs.faults.items():
        found[index] = EnvironmentFault(f"{fault}, at step {step}")
        found[index].__cause__ = envs.deaths.get(index)
    return found


def of_losses(learner: GroupLearner, indices: Iterable[int], step: int) -> Failures:
    """The seeds that have logged a value that is not finite."""
    found: Failures = {}
    for index in indices:
        for name, value in learner.means(index).items():
            if not math.isfinite(value):
                found.setdefault(index, FloatingPointError(f"{name} became {value} by step {step}"))
    return found


def of_actions(actions: np.ndarray, learner: GroupLearner, failed: FailedSeeds, step: int) -> Failures:
    """The seeds whose policy chose an action that is not finite. These actions are replaced by zeros."""
    wrong = ~np.isfinite(actions).all(axis=1)
    if not wrong.any():
        return {}
    actions[wrong] = 0.0
    indices = np.flatnonzero(wrong).tolist()
    error = FloatingPointError(f"the policy chose an action that is not finite at step {step}")
    losses = of_losses(learner, (index for index in indices if index not in failed), step)
    return {**dict.fromkeys(indices, error), **losses}


def of_evaluation(failed: Failed) -> Exception:
    """The error of a seed whose evaluation failed. Actions that are not finite are a divergence there as well."""
    where = f"the evaluation of step {failed.step}"
    error: Exception
    if isinstance(failed.error, FloatingPointError):
        error = FloatingPointError(f"{failed.error}, in {where}")
    else:
        error = EvaluationFault(f"{where}: {describe(failed.error)}")
    error.__cause__ = failed.error
    return error
