"""Published curves next to our runs: they are shown for reference and do not change what is reported of our runs."""

from __future__ import annotations

import pandas as pd


def is_published(frame: pd.DataFrame) -> pd.Series[bool]:
    """Which rows, of runs or of evaluations, belong to published curves."""
    return frame.get("published", pd.Series(False, index=frame.index)).astype(bool)


def on_our_tasks(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame without published rows of tasks that we have no run of; a suite without any run of ours is kept."""
    published = is_published(frame)
    ours = frame[~published]
    tasks = set(zip(ours["suite"], ours["task"], strict=True))
    shared = [key in tasks for key in zip(frame["suite"], frame["task"], strict=True)]
    return frame[~published | pd.Series(shared, frame.index, dtype=bool) | ~frame["suite"].isin(ours["suite"])]


def within_our_budget(runs: pd.DataFrame, evals: pd.DataFrame) -> pd.DataFrame:
    """The evaluations, of published curves only those up to the end of our longest run in the suite.

    Without a run of ours, the limit is the budget of the suite.
    """
    ours = runs[~is_published(runs)]
    budgets = runs.groupby("suite")["suite_steps"].max().to_dict() | ours.groupby("suite")["steps"].max().to_dict()
    return evals[~is_published(evals) | (evals["step"] <= evals["suite"].map(budgets))]
