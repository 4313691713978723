"""Published curves in reports: they are marked, and they do not change the numbers of our runs."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from reports import build, frames, shown
from rich.console import Console

from flowbench import report, stats
from flowbench.report import coverage
from flowbench.report.figures.lines import learning
from flowbench.report.figures.style import styles_of

OURS, THEIRS = ("sac", "td3"), ("a2c (published)", "tdmpc2 (published)")
IN_ORDER = (*OURS[::-1], *THEIRS[::-1])  # each from the highest IQM
TASKS = ("dog-run", "dog-stand", "dog-trot")


def with_ours(*, ours=None, theirs=None):
    """Runs of ours on two tasks with seeds 0-2, and longer published curves on three with seeds 1000 and 2000."""
    own = frames(OURS, TASKS[:2], range(3), **{"suite_steps": 10_000} | (ours or {}))
    given = {"seeds": (1000, 2000), "tasks": TASKS, "steps": 40_000, "every": 4000, "suite_steps": 10_000}
    published = frames(THEIRS, **given | (theirs or {}))
    marked = [frame.assign(published=True) for frame in published]
    marked[0]["origin"] = "simbav2"
    pairs = zip((frame.assign(published=False, origin="") for frame in own), marked, strict=True)
    return tuple(pd.concat(pair, ignore_index=True) for pair in pairs)


def alone(**theirs):
    runs, evals = with_ours(theirs=theirs)
    return runs[runs["published"]], evals[evals["published"]]


@pytest.fixture(scope="module")
def section():
    return build(*with_ours()).sections[0]


def test_they_stand_last_and_are_named(section):
    assert section.algos == IN_ORDER
    assert section.published == dict.fromkeys(THEIRS, "simbav2")


def test_they_choose_neither_the_step_nor_the_tasks(section):
    assert section.step == 10_000
    assert section.budgets == (10_000, 10_000)
    assert section.tasks == TASKS[:2]
    aggregates = section.aggregates.set_index(["algo", "metric"])
    assert aggregates.loc[("sac", "IQM"), "seeds"] == 3


def test_our_numbers_are_those_without_them(section):
    runs, evals = with_ours()
    plain = build(runs[~runs["published"]], evals[~evals["published"]]).sections[0]
    for name in ("aggregates", "per_task"):
        own = getattr(section, name)
        own = own[own["algo"].isin(OURS)].reset_index(drop=True)
        pd.testing.assert_frame_equal(own, getattr(plain, name))


def test_their_evaluation_at_the_step_or_the_nearest_before_counts_and_it_is_said(section):
    """They are evaluated every 4000 steps: 8000 is the last before 10,000."""
    runs, evals = with_ours()
    table = stats.at_step(runs, evals, 10_000)
    assert set(table.loc[table["published"], "step"]) == {8000}
    assert any(
        "tdmpc2 (published): its last evaluation at or before step 10,000 is used, at step 8,000" in text
        for text in section.warnings
    )


def test_a_curve_counts_until_its_next_evaluation_would_have_come():
    runs, evals = with_ours(theirs={"steps": 8000})
    assert stats.at_step(runs, evals, 10_000)["counts"].all()
    late = stats.at_step(runs, evals, 12_000)
    assert not late["counts"].any()


def test_none_of_them_is_missing():
    runs, evals = with_ours(theirs={"steps": 4000})
    holes = (runs["algo"] == THEIRS[0]) & (runs["task"] == TASKS[0])
    section = build(runs[~holes], evals).sections[0]
    assert section.missing.empty
    assert "a2c (published): no aggregate scores" in " ".join(section.warnings)
    assert "Missing: none of 12 runs" in shown(build(runs, evals))


def test_every_format_shows_them_apart():
    built = build(*with_ours())
    said = "at step 10,000 or the last evaluation before it: tdmpc2 (published), a2c (published) from simbav2 files"
    for text in (shown(built), *(report.render(built, name) for name in ("markdown", "csv"))):
        assert said in " ".join(text.replace("\\", "").split())
    assert "2 algorithms, 2 tasks, 3 seeds" in " ".join(shown(built).split())
    suite = json.loads(report.render(built, "json"))["suites"][0]
    assert suite["published"] == dict.fromkeys(THEIRS, "simbav2")
    assert suite["algos"] == list(IN_ORDER)


def test_short_runs_of_ours_are_not_left_out_for_their_sake():
    built = build(*with_ours(ours={"steps": 5000}))
    assert built.sections[0].step == 5000
    assert set(OURS) <= set(built.sections[0].algos)


def test_alone_they_are_compared_at_the_end_of_the_suites_budget():
    built = build(*alone())
    section = built.sections[0]
    assert (section.step, section.algos, section.tasks) == (10_000, THEIRS[::-1], TASKS)
    assert "Published runs only" in shown(built)
    assert build(*alone(), step=40_000).sections[0].step == 40_000


def test_alone_a_curve_whose_last_evaluation_is_just_before_the_end_is_whole():
    assert build(*alone(steps=8000)).sections[0].algos == THEIRS
    runs, evals = alone(steps=8000)
    runs.loc[runs["algo"] == THEIRS[0], ["steps", "every"]] = 4000
    assert build(runs, evals).sections[0].algos == THEIRS[1:]


def test_two_imports_under_one_name_are_kept_apart():
    runs, evals = with_ours()
    for frame in (runs, evals):
        frame.loc[frame["published"], "algo"] = "ppo (published)"
    section = build(runs, evals).sections[0]
    assert len(section.published) == 2
    assert all(label.startswith("ppo (published)#") for label in section.published)


def test_in_figures_they_are_dashed_and_end_with_our_longest_run():
    runs, evals = with_ours()
    evals = stats.within_our_budget(runs, stats.on_our_tasks(evals))
    assert evals.groupby("published")["step"].max().to_dict() == {False: 10_000, True: 8000}
    figure = learning(runs[runs["task"].isin(TASKS[:2])], evals, 10_000, styles_of(runs), reps=50, seed=0, thin=False)
    assert len(figure.axes) == 2
    styles = {line.get_label(): line.get_linestyle() for line in figure.axes[0].lines}
    assert {label: styles[label] for label in (*OURS, *THEIRS)} == {
        **dict.fromkeys(OURS, "-"),
        **dict.fromkeys(THEIRS, "--"),
    }


def test_the_grid_of_seeds_is_ours_and_they_are_named_below_it():
    runs, _ = with_ours()
    out = io.StringIO()
    coverage.show(runs, Console(file=out, width=100))
    text = out.getvalue()
    assert "1000" not in text
    assert "missing" not in text
    assert "12 done" in text
    assert "dmc-hard: 12 published runs for reference: a2c (published), tdmpc2 (published)" in text


def test_a_seed_that_an_algorithm_has_on_no_task_is_not_missing():
    runs, _ = frames(algos=("sac", "td3"), tasks=("a", "b"), seeds=range(3))
    runs = runs[(runs["algo"] == "sac") | (runs["seed"] < 2)]
    runs = runs[(runs["algo"] == "sac") | (runs["task"] == "a") | (runs["seed"] < 1)]
    found = coverage.matrix(runs).set_index(["task", "algo"])["missing"].to_dict()
    assert found == {("a", "sac"): [], ("b", "sac"): [], ("a", "td3"): [], ("b", "td3"): [1]}


def test_they_are_still_there_when_nothing_else_is():
    out = io.StringIO()
    coverage.show(alone()[0], Console(file=out, width=100))
    assert out.getvalue().startswith("dmc-hard: 12 published runs for reference: ")
    assert np.isfinite(build(*alone()).sections[0].aggregates["estimate"]).all()
