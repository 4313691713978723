"""Statistics of a suite's runs: DataFrame -> DataFrame, printing nothing.

The estimates and their intervals are those of Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge
of the Statistical Precipice", as rliable defines them: interquartile mean, median, mean and optimality gap of the
normalised scores, performance profiles, the interquartile mean over steps and the probability of improvement, with
percentile intervals from a bootstrap stratified by task (the seeds of each task are resampled on their own; the
tasks are not). rliable resamples in Python, seconds a number, so the resampling is done here on arrays, and tests
hold one against the other.

``at_step`` turns a results folder's two frames into the table that everything else reads.
"""

from flowbench.stats.aggregate import METRICS, aggregates, per_task, score_matrices, success_rates
from flowbench.stats.bootstrap import CONFIDENCE, REPS
from flowbench.stats.curve import curves, task_curves
from flowbench.stats.pairs import improvement
from flowbench.stats.profile import profiles
from flowbench.stats.published import is_published, on_our_tasks, within_our_budget
from flowbench.stats.scores import (
    RUN,
    at_step,
    common_step,
    complete_seeds,
    distinct_labels,
    ended_diverged,
    full_length,
    missing,
)
from flowbench.stats.sequential import Pair, least_p, looks, pairs
from flowbench.stats.versus import LEVEL, decisions, versus

__all__ = [
    "CONFIDENCE",
    "LEVEL",
    "METRICS",
    "REPS",
    "RUN",
    "Pair",
    "aggregates",
    "at_step",
    "common_step",
    "complete_seeds",
    "curves",
    "decisions",
    "distinct_labels",
    "ended_diverged",
    "full_length",
    "improvement",
    "is_published",
    "least_p",
    "looks",
    "missing",
    "on_our_tasks",
    "pairs",
    "per_task",
    "profiles",
    "score_matrices",
    "success_rates",
    "task_curves",
    "versus",
    "within_our_budget",
]
