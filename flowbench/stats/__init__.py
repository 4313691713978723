"""Statistics of the runs of a suite: from DataFrames to DataFrames; nothing here prints.

The estimates and their intervals follow Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the
Statistical Precipice", as rliable defines them: interquartile mean, median, mean and optimality gap of the normalised
scores, performance profiles, the interquartile mean over steps, and the probability of improvement. The intervals are
percentile intervals of a bootstrap stratified by task: the seeds of each task are resampled independently, the tasks
are fixed. rliable resamples in Python, which takes seconds for each number. Here the resampling is done on arrays, and
tests compare the results with those of rliable.

``at_step`` makes the table that all other functions read from the two frames of a results folder.
"""

from flowbench.stats.aggregate import METRICS, aggregates, per_task, score_matrices, success_rates
from flowbench.stats.bootstrap import CONFIDENCE, REPS
from flowbench.stats.curve import curves, task_curves
from flowbench.stats.pairs import both_ways, improvement, oriented
from flowbench.stats.profile import profiles
from flowbench.stats.published import is_published, on_our_tasks, within_our_budget
from flowbench.stats.rank_tests import DECIDED, FEWEST, LEVEL
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
from flowbench.stats.versus import versus

# fmt: off
__all__ = [
    "CONFIDENCE", "DECIDED", "FEWEST", "LEVEL", "METRICS", "REPS", "RUN", "Pair", "aggregates", "at_step", "both_ways",
    "common_step", "complete_seeds", "curves", "distinct_labels", "ended_diverged", "full_length", "improvement",
    "is_published", "least_p", "looks", "missing", "on_our_tasks", "oriented", "pairs", "per_task", "profiles",
    "score_matrices", "success_rates", "task_curves", "versus", "within_our_budget",
]
