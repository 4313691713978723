"""A suite of one gymnasium environment, without a file."""

from __future__ import annotations

import re

from suites.sources import adapter
from suites.task import Evaluation, Score, Suite, Task

STEPS, EVALUATIONS, EPISODES = 100_000, 20, 5
NOTE = (
    "Scores are returns, because the score bounds of this environment are not known. A suite file with score bounds "
    "gives normalised scores."
)


def single(env: str, steps: int | None = None) -> Suite:
    """The suite `env-<id>` with one task, a gymnasium id, whose scores are returns: bounds 0 and 1 change nothing.

    Raises SuiteError, with the nearest ids, if there is no such id.
    """
    adapter("gymnasium").check(env)
    budget = steps or STEPS
    return Suite(
        name="env-" + re.sub(r"[^a-z0-9_-]", "-", env.lower()),
        title=f"The environment {env}",
        tasks=(Task(env, "gymnasium", 1, Score(0.0, 1.0)),),
        steps=budget,
        evaluation=Evaluation(max(1, budget // EVALUATIONS), EPISODES),
        comparable=False,
        note=NOTE,
    )
