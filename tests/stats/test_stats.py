"""The statistics compared with numbers computed by hand and with rliable."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from frames import grid, join, table_of
from rliable import library, metrics

from flowbench import stats
from flowbench.stats import bootstrap
from flowbench.stats.aggregate import drawn_iqm, iqm
from flowbench.stats.pairs import drawn_means, outcomes

REPS = 200


# Two seeds of four tasks. Sorted: 0 .1 | .2 .3 .5 .6 | .9 1.2, so IQM = 1.6 / 4 = 0.4.
# Task means .15 .15 .7 .9: median = (.15 + .7) / 2 = 0.425, mean = 1.9 / 4 = 0.475.
# Optimality gap: 1.2 is cut to 1, so 1 - 3.6 / 8 = 0.55.
HAND = {"a": {0: 0.1, 1: 0.2}, "b": {0: 0.0, 1: 0.3}, "c": {0: 0.9, 1: 0.5}, "d": {0: 1.2, 1: 0.6}}
UNEVEN = {task: {seed: (i + 1) ** 2 / (seed + 3) for seed in range(5)} for i, task in enumerate("xyz")}


def values(frame, column="estimate"):
    return dict(zip(frame["metric"], frame[column], strict=True))


def test_success_rates_are_means_over_the_seeds_that_have_one():
    runs, evals = join(grid({"a": {0: 1, 1: 1, 2: 1}, "b": {0: 1}}), grid({"a": {0: 1}}, algo="td3", config_id="id"))
    assert stats.success_rates(stats.at_step(runs, evals, 100), reps=REPS).empty
    evals["success"] = [0.0, 0.5, np.nan, np.nan, 1.0]  # seeds 0 to 2 and 0 of SAC, 0 of TD3
    found = stats.success_rates(stats.at_step(runs, evals, 100), reps=REPS)
    assert found[["task", "algo", "success", "seeds"]].values.tolist() == [["a", "sac", 0.25, 2], ["a", "td3", 1.0, 1]]
    assert found.loc[0, ["low", "high"]].tolist() == [0.0, 0.5]
    assert found.loc[1, ["low", "high"]].isna().all()


def test_aggregates_worked_out_by_hand():
    found = stats.aggregates(table_of(grid(HAND)), reps=REPS)
    assert values(found) == pytest.approx({"IQM": 0.4, "Median": 0.425, "Mean": 0.475, "Optimality Gap": 0.55})
    assert set(found["seeds"]) == {2}
    assert set(found["tasks"]) == {4}


def test_intervals_are_those_of_rliable_on_runs_by_tasks():
    found = stats.aggregates(table_of(grid(UNEVEN)), reps=REPS, seed=3)
    matrix = np.array([[UNEVEN[task][seed] for task in "xyz"] for seed in range(5)])
    functions = (
        metrics.aggregate_iqm,
        metrics.aggregate_median,
        metrics.aggregate_mean,
        metrics.aggregate_optimality_gap,
    )

    def direct(scores):
        np.random.seed(3)
        points, bounds = library.get_interval_estimates(
            {"x": scores}, lambda x: np.array([f(x) for f in functions]), reps=REPS
        )
        return np.vstack([points["x"], bounds["x"]]).T

    ours = found[["estimate", "low", "high"]].to_numpy()
    np.testing.assert_array_equal(ours, direct(matrix))
    assert not np.allclose(ours, direct(matrix.T)), "this example could not tell a transposed matrix"


def test_intervals_repeat_and_leave_numpys_random_state_alone():
    table = table_of(grid(UNEVEN))
    np.random.seed(7)
    expected = np.random.random(3)
    np.random.seed(7)
    first = stats.aggregates(table, reps=REPS), stats.per_task(table, reps=REPS)
    np.testing.assert_array_equal(np.random.random(3), expected)
    second = stats.aggregates(table, reps=REPS), stats.per_task(table, reps=REPS)
    for one, two in zip(first, second, strict=True):
        pd.testing.assert_frame_equal(one, two)
    assert not first[0]["low"].equals(stats.aggregates(table, reps=REPS, seed=1)["low"])


def test_an_algorithms_interval_does_not_depend_on_the_others():
    alone = stats.aggregates(table_of(grid(UNEVEN, algo="td3")), reps=REPS)
    both = stats.aggregates(table_of(grid(UNEVEN, algo="td3"), grid(UNEVEN, algo="sac")), reps=REPS)
    pd.testing.assert_frame_equal(alone, both[both["algo"] == "td3"].reset_index(drop=True))


def test_the_order_of_the_rows_does_not_matter():
    runs, evals = grid(UNEVEN)
    shuffled = stats.at_step(runs.sample(frac=1, random_state=0), evals.sample(frac=1, random_state=1), 100)
    pd.testing.assert_frame_equal(stats.at_step(runs, evals, 100), shuffled)


def test_one_seed_has_no_interval():
    table = table_of(grid({"a": {0: 0.2}, "b": {0: 0.6}}))
    found = stats.aggregates(table, reps=REPS)
    assert values(found)["Mean"] == pytest.approx(0.4)
    assert found[["low", "high"]].isna().all(axis=None)
    tasks = stats.per_task(table, reps=REPS)
    assert list(tasks["mean"]) == pytest.approx([200, 600])
    assert tasks[["low", "high", "score_low", "score_high"]].isna().all(axis=None)


def test_the_aggregate_uses_the_seeds_that_every_task_has():
    table = table_of(grid({"a": {0: 0.1, 1: 0.3, 2: 0.9}, "b": {0: 0.5, 1: 0.7}}))
    assert stats.complete_seeds(table) == {"sac": [0, 1]}
    found = stats.aggregates(table, reps=REPS)
    assert values(found)["Mean"] == pytest.approx(0.4)  # not 0.5, which seed 2's 0.9 on one task would give
    assert set(found["seeds"]) == {2}
    tasks = stats.per_task(table, reps=REPS).set_index("task")
    assert tasks.at["a", "mean"] == pytest.approx(1300 / 3)  # a task's own mean uses all it has
    assert dict(tasks["seeds"]) == {"a": 3, "b": 2}


def test_a_task_that_another_algorithm_has_leaves_no_complete_seed():
    table = table_of(grid(HAND, algo="td3"), grid({"a": {0: 0.1, 1: 0.2}}, algo="sac"))
    assert stats.complete_seeds(table) == {"sac": [], "td3": [0, 1]}
    found = stats.aggregates(table, reps=REPS)
    assert found.loc[found["algo"] == "sac", ["estimate", "low", "high"]].isna().all(axis=None)
    assert set(found.loc[found["algo"] == "sac", "seeds"]) == {0}
    tasks = stats.per_task(table, reps=REPS).set_index(["task", "algo"])
    assert tasks.at[("b", "sac"), "seeds"] == 0
    assert np.isnan(tasks.at[("b", "sac"), "mean"])


def test_a_tasks_interval_is_that_of_rliable_for_return_and_score_alike():
    scores = {seed: (seed + 1) ** 2 / 30 for seed in range(5)}
    row = stats.per_task(table_of(grid({"a": scores})), reps=REPS).iloc[0]
    np.random.seed(0)
    matrix = np.array(list(scores.values()))[:, None]
    _, bounds = library.get_interval_estimates({"x": matrix}, lambda x: x.mean(axis=0), reps=REPS)
    assert [row["score_low"], row["score_high"]] == pytest.approx(bounds["x"].ravel())
    assert [row["low"], row["high"]] == pytest.approx(1000 * bounds["x"].ravel())


def test_two_configs_under_one_label_are_told_apart():
    runs, evals = join(
        grid(HAND, config_id="3fa2c81b00aa"),
        grid(HAND, config_id="3fa2c81bffaa"),
        grid(HAND, algo="td3", config_id="77"),
    )
    with pytest.raises(ValueError, match="distinct_labels"):
        stats.aggregates(stats.at_step(runs, evals, 100), reps=REPS)
    runs, evals = stats.distinct_labels(runs, evals)
    assert set(runs["algo"]) == set(evals["algo"]) == {"sac#3fa2c81b0", "sac#3fa2c81bf", "td3"}
    assert len(stats.aggregates(stats.at_step(runs, evals, 100), reps=REPS)) == 3 * len(stats.METRICS)


def test_one_config_a_label_keeps_its_name_and_so_do_other_suites():
    runs, evals = join(grid(HAND, config_id="1111"), grid(HAND, config_id="2222"))
    runs.loc[runs["config_id"] == "2222", "suite"] = "other"
    evals.loc[evals["config_id"] == "2222", "suite"] = "other"
    assert set(stats.distinct_labels(runs, evals)[0]["algo"]) == {"sac"}


def test_the_common_step():
    long, short = grid({"a": {0: 0.1}}, step=100), grid({"a": {0: 0.1}}, algo="td3", step=60)
    assert stats.common_step(*join(long, short)) == 60
    unfinished = grid({"a": {0: [(30, 0.1)]}}, algo="qvpo", status="running")
    assert stats.common_step(*join(long, unfinished)) == 100
    slower = grid({"a": {1: [(10, 0.1), (20, 0.2)]}}, algo="qvpo", status="failed")
    assert stats.common_step(*join(unfinished, slower)) == 20
    with pytest.raises(ValueError, match="no step"):
        stats.common_step(*grid({"a": {0: []}}, status="queued"))


def test_evaluations_at_other_steps_count_when_they_are_the_last_due():
    table = table_of(
        grid({"a": {0: [(48, 0.1), (96, 0.2)]}}, every=48),
        grid({"a": {0: [(50, 0.3), (100, 0.4), (150, 0.5)]}}, algo="td3", every=50, step=150),
    )
    assert list(table["step"]) == [96, 100]
    assert list(table["score"]) == [0.2, 0.4]
    assert table["counts"].all()


def test_a_run_that_stopped_early_is_missing_and_says_where():
    early = grid({"a": {0: [(10, 0.1), (60, 0.2)]}}, status="failed", error="Boom")
    table = table_of(early, grid({"a": {0: 0.5}}, algo="td3"))
    row = table.iloc[0]
    assert not row["counts"]
    assert np.isnan(row["score"])
    assert pd.isna(row["step"])
    gap = stats.missing(table).iloc[0]
    assert (gap["status"], gap["reached"], gap["error"]) == ("failed", 60, "Boom")
    assert gap["reason"] == "evaluated up to step 60"
    assert table_of(early, step=60)["counts"].all()  # it did get to 60


def test_a_budget_is_never_reported_beyond():
    run = grid({"a": {0: [(60, 0.2)]}}, every=60, step=100)
    assert table_of(run, step=100)["counts"].all()  # the next evaluation would be at 120
    assert not table_of(run, step=110)["counts"].any()


def test_missing_is_looked_for_over_all_tasks_and_the_algorithms_own_seeds():
    table = table_of(
        grid({"a": {0: 0.1, 1: 0.1}, "b": {0: 0.1}}),
        grid({"a": {0: [(100, 0.1)], 5: [(200, 0.1)]}}, algo="td3", step=200),
        grid({"c": {0: []}}, algo="qvpo", status="queued"),
    )
    gaps = stats.missing(table)
    found = {(r.algo, r.task, r.seed): (r.status, r.reason) for r in gaps.itertuples()}
    never = ("absent", "never started")
    assert found == {
        ("qvpo", "a", 0): never,
        ("qvpo", "b", 0): never,
        ("qvpo", "c", 0): ("queued", "no evaluation"),
        ("sac", "b", 1): never,
        ("sac", "c", 0): never,
        ("sac", "c", 1): never,
        ("td3", "a", 5): ("done", "first evaluated at step 200"),
        ("td3", "b", 0): never,
        ("td3", "b", 5): never,
        ("td3", "c", 0): never,
        ("td3", "c", 5): never,
    }


def test_a_diverged_run_counts_with_its_last_finite_evaluation_and_is_marked():
    nan = float("nan")
    table = table_of(
        grid({"a": {0: [(80, 0.3), (90, nan), (100, float("inf"))], 1: 0.5, 2: [(90, nan), (100, nan)]}}),
    )
    assert list(table["diverged"]) == [True, False, False]
    assert list(table["counts"]) == [True, True, False]
    assert list(table["step"].dropna()) == [80, 100]
    assert stats.missing(table)["reason"].tolist() == ["no finite evaluation"]
    assert values(stats.aggregates(table, reps=REPS))["Mean"] == pytest.approx(0.4)


DIVERGED = {"status": "failed", "error": "FloatingPointError: critic/loss became nan by step 60"}


def test_a_run_that_ended_diverged_counts_as_one_whose_evaluations_became_nan():
    nan = float("nan")
    ended = grid({"a": {0: [(10, 0.1), (40, 0.3)], 1: [(40, nan)], 2: [], 3: [(40, 0.2), (50, nan)]}}, **DIVERGED)
    table = table_of(ended, grid({"a": {4: 0.5}}))
    assert table["counts"].tolist() == [True, False, False, True, True]
    assert table["diverged"].tolist() == [True, False, False, True, False]
    assert table["lost"].tolist() == [False, True, True, False, False]
    assert table["score"].dropna().tolist() == [0.3, 0.2, 0.5]
    assert stats.missing(table)["reason"].tolist() == ["no finite evaluation", "no evaluation"]
    early = table_of(ended, step=40)  # they had not diverged by then
    assert early["diverged"].tolist() == [False] * 4
    assert early["counts"].tolist() == [True, False, False, True]
    assert not table_of(ended, step=200)["counts"].any()  # beyond its budget it would not have been
    assert not table_of(ended, step=200)["lost"].any()


def test_a_run_that_ended_for_another_reason_has_not_arrived():
    table = table_of(grid({"a": {0: [(40, 0.3)]}}, status="failed", error="EnvironmentFault: FloatingPointError"))
    assert not table[["counts", "diverged", "lost"]].any(axis=None)


def test_a_diverged_run_does_not_draw_the_common_step_to_its_end():
    ended = grid({"a": {0: [(20, 0.1)]}}, **DIVERGED)
    going = grid({"a": {1: [(20, 0.1), (60, 0.2)]}}, status="running")
    assert stats.common_step(*join(ended, going)) == 60
    assert stats.common_step(*ended) == 20


def test_a_gap_of_nan_before_the_evaluation_used_is_no_divergence():
    table = table_of(grid({"a": {0: [(90, float("nan")), (100, 0.2)]}}))
    assert not table["diverged"].any()
    assert table["score"].item() == 0.2


def test_suites_are_never_pooled():
    runs, evals = grid({"a": {0: 0.1, 1: 0.2}})
    runs, evals = (pd.concat([f, f.assign(suite="other")], ignore_index=True) for f in (runs, evals))
    table = stats.at_step(runs, evals, 100)
    for function in (stats.aggregates, stats.per_task, stats.improvement, stats.complete_seeds, stats.missing):
        with pytest.raises(ValueError, match="never pooled"):
            function(table)


def test_evaluations_of_runs_left_out_are_left_out():
    runs, evals = join(grid(HAND), grid(HAND, algo="td3"))
    assert set(stats.at_step(runs[runs["algo"] == "sac"], evals, 100)["algo"]) == {"sac"}
    slow = grid({"a": {0: [(30, 0.1)]}}, algo="qvpo", status="running")
    runs, evals = join(grid({"a": {0: [(50, 0.1)]}}, status="running"), slow)
    assert stats.common_step(runs[runs["algo"] == "sac"], evals) == 50


def test_no_evaluations_at_all():
    runs, _ = grid({"a": {0: []}}, status="queued")
    assert stats.at_step(runs, pd.DataFrame(), 100)["reason"].tolist() == ["no evaluation"]


def test_resamples_must_be_at_least_one():
    for function in (stats.aggregates, stats.improvement):
        with pytest.raises(ValueError, match="reps"):
            function(table_of(grid(HAND)), reps=0)


def test_a_doubled_cell_is_refused():
    runs, evals = grid(HAND)
    with pytest.raises(ValueError, match="more than one row"):
        stats.at_step(pd.concat([runs, runs]), evals, 100)


def pair(x, y, *, reps=REPS, **options):
    """Both frames of improvement for two algorithms; {task: [score, ...]} each, seeds numbered from 0."""
    grids = [
        grid({task: dict(enumerate(map(float, scores))) for task, scores in of_tasks.items()}, algo=algo)
        for algo, of_tasks in (("sac", x), ("td3", y))
    ]
    return stats.improvement(table_of(*grids), reps=reps, **options)


def in_tasks(matrix):
    """{task: scores} of a matrix, runs by tasks."""
    return {f"t{task:02}": matrix[:, task] for task in range(matrix.shape[1])}


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([1, 2, 3], [0, 2, 4], 4.5 / 9),  # 1 beats 0; 2 beats 0 and ties with 2; 3 beats 0 and 2
        ([1, 2, 5], [0, 2, 4], 5.5 / 9),  # 5 beats 4 too
        ([1, 1], [1, 1, 1], 0.5),  # nothing but ties
        ([0, 1], [1, 2, 1], 1 / 6 * (0.5 + 0.5)),  # 1 ties with 1 twice
        ([3, 4], [1, 2, 0], 1.0),
        ([1], [0, 2], 0.5),
    ],
)
def test_the_probability_of_improvement_worked_out_by_hand(x, y, expected):
    overall, each = pair({"a": x}, {"a": y})
    for frame in (overall, each):
        row = frame.iloc[0]
        assert (row["algo"], row["over"], row["estimate"]) == ("sac", "td3", pytest.approx(expected))
        assert (row["seeds"], row["over_seeds"]) == (len(x), len(y))
    assert overall["tasks"].item() == 1
    other_way_round = pair({"a": y}, {"a": x})[0]["estimate"].item()
    assert other_way_round == pytest.approx(1 - expected)


@pytest.mark.parametrize(("runs", "over_runs", "tasks"), [(5, 5, 7), (3, 4, 2), (2, 6, 15)])
def test_the_probability_of_improvement_is_rliables_on_runs_by_tasks(runs, over_runs, tasks):
    random = np.random.default_rng(0)
    x, y = (np.round(random.normal(size=(n, tasks)), 1) for n in (runs, over_runs))  # rounded: some tie
    overall, each = pair(in_tasks(x), in_tasks(y))
    assert overall["estimate"].item() == metrics.probability_of_improvement(x, y)
    alone = [metrics.probability_of_improvement(x[:, [task]], y[:, [task]]) for task in range(tasks)]
    assert each["estimate"].tolist() == alone
    assert (overall["tasks"].item(), each["task"].tolist()) == (tasks, list(in_tasks(x)))
    if runs == over_runs:
        assert metrics.probability_of_improvement(x.T, y.T) != overall["estimate"].item()


def test_its_interval_is_that_of_rliable_but_for_the_draws():
    random = np.random.default_rng(5)
    x, y = random.normal(0.3, size=(5, 2)), random.normal(size=(4, 2))
    np.random.seed(0)
    _, bounds = library.get_interval_estimates(
        {"pair": (x, y)}, lambda x, y: np.array([metrics.probability_of_improvement(x, y)]), reps=1000
    )
    row = pair(in_tasks(x), in_tasks(y), reps=10_000)[0].iloc[0]
    # An end moves by 0.01 or so from one thousand resamples to the next.
    assert [row["low"], row["high"]] == pytest.approx(bounds["pair"].ravel(), abs=0.03)
    assert row["low"] < row["estimate"] < row["high"]


def test_its_resamples_are_spread_as_all_of_them_are():
    wins = outcomes(np.array([1.0, 2.0, 5.0]), np.array([0.0, 2.0]))
    rows, columns = product(range(3), repeat=3), list(product(range(2), repeat=2))
    every = np.array([wins[np.ix_(row, column)].mean() for row in rows for column in columns])
    found = drawn_means([wins, wins], 20_000, 0)
    assert found.shape == (2, 20_000)
    for bound in (0.3, 0.5, 0.7, 0.9):
        assert (found < bound).mean(axis=1) == pytest.approx((every < bound).mean(), abs=0.015)
    assert found.mean(axis=0).var() == pytest.approx(every.var() / 2, rel=0.05)  # tasks are drawn independently


def test_tasks_may_differ_in_their_seeds():
    x, y = {"a": [1, 2, 3], "b": [5, 6]}, {"a": [0, 2, 4, 9], "b": [1, 7, 8, 9, 9]}
    overall, each = pair(x, y)
    assert each["estimate"].tolist() == pytest.approx([4.5 / 12, 2 / 10])
    assert overall["estimate"].item() == pytest.approx((4.5 / 12 + 2 / 10) / 2)
    assert each[["seeds", "over_seeds"]].to_numpy().tolist() == [[3, 4], [2, 5]]
    assert overall[["seeds", "over_seeds", "tasks"]].to_numpy().tolist() == [[2, 4, 2]]
    assert overall[["low", "high"]].notna().all(axis=None)


def test_one_seed_of_either_leaves_the_probability_and_no_interval():
    overall, each = pair({"a": [1, 2, 3], "b": [5]}, {"a": [0, 2, 4], "b": [1, 2, 9]})
    assert overall["estimate"].item() == pytest.approx((0.5 + 2 / 3) / 2)
    assert overall[["low", "high"]].isna().all(axis=None)
    assert each["low"].isna().tolist() == [False, True]


def test_only_the_tasks_that_both_have_are_compared():
    overall, each = pair({"a": [1, 2], "b": [9, 9], "c": [9, 9]}, {"a": [2, 2], "c": [0, 0], "d": [9, 9]})
    assert each["task"].tolist() == ["a", "c"]
    assert (overall["tasks"].item(), overall["estimate"].item()) == (2, pytest.approx((0.25 + 1) / 2))
    overall, each = pair({"a": [1, 2]}, {"b": [1, 2]})
    assert overall[["estimate", "low", "high"]].isna().all(axis=None)
    assert overall[["tasks", "seeds", "verdict"]].iloc[0].tolist() == [0, 0, "no common task"]
    assert each.empty


def test_every_pair_once_whichever_others_there_are():
    random = np.random.default_rng(0)
    grids = {
        algo: grid({task: dict(enumerate(random.normal(size=4))) for task in "ab"}, algo=algo)
        for algo in ("td3", "flowrl", "sac", "qvpo[lr=0.1,steps=2]")
    }
    np.random.seed(7)
    before = np.random.get_state()[1].tolist()
    overall, each = stats.improvement(table_of(*grids.values()), reps=REPS)
    assert np.random.get_state()[1].tolist() == before
    names = sorted(grids)
    pairs = [(a, b) for a in names for b in names if a < b]
    assert list(zip(overall["algo"], overall["over"], strict=True)) == pairs
    assert len(each) == 2 * len(pairs)
    alone, alone_each = stats.improvement(table_of(grids["td3"], grids["sac"]), reps=REPS)
    corrected = ["p_holm", "tests", "verdict"]
    for frame, one in ((overall.drop(columns=corrected), alone.drop(columns=corrected)), (each, alone_each)):
        mine = frame[(frame["algo"] == "sac") & (frame["over"] == "td3")].reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, one)
    assert not alone["low"].equals(stats.improvement(table_of(grids["td3"], grids["sac"]), reps=REPS, seed=1)[0]["low"])


# Profiles and curves


def curved(scores, *, every=10, algo="sac", step=None, **run):
    """Both frames of a matrix of scores, runs by tasks by evaluations, one every ``every`` steps."""
    last = every * scores.shape[2]
    steps = range(every, last + 1, every)
    cells = {
        f"t{task}": {seed: list(zip(steps, scores[seed, task], strict=True)) for seed in range(len(scores))}
        for task in range(scores.shape[1])
    }
    return grid(cells, algo=algo, step=step or last, every=every, **run)


def rliable_intervals(matrix, func, reps=2000):
    np.random.seed(0)
    points, bounds = library.get_interval_estimates({"x": matrix}, func, reps=reps)
    return points["x"], bounds["x"]


def test_profiles_are_those_of_rliable_on_runs_by_tasks():
    scores = np.random.default_rng(1).uniform(-0.1, 1.3, size=(4, 3))
    found = stats.profiles(table_of(grid({f"t{t}": dict(enumerate(scores[:, t])) for t in range(3)})), reps=5000)
    thresholds = found["threshold"].to_numpy()
    assert (thresholds[0], thresholds[-1]) == (min(0, scores.min()), scores.max())
    points, bounds = rliable_intervals(scores, lambda x: library.score_distributions(x, thresholds))
    np.testing.assert_allclose(found["estimate"], points)
    np.testing.assert_allclose(found[["low", "high"]].to_numpy().T, bounds, atol=1 / scores.size + 1e-9)
    assert (found["seeds"].unique(), found["tasks"].unique()) == ([4], [3])


def test_a_curve_is_rliables_iqm_at_every_step():
    scores = np.random.default_rng(2).normal(0.5, 0.3, size=(5, 3, 4))
    runs, evals = curved(scores)
    found = stats.curves(stats.at_step(runs, evals, 40), evals, 40, reps=10_000)
    assert found["step"].tolist() == [10, 20, 30, 40]
    points, bounds = rliable_intervals(
        scores, lambda x: np.array([metrics.aggregate_iqm(x[..., k]) for k in range(x.shape[-1])])
    )
    np.testing.assert_allclose(found["estimate"], points)
    np.testing.assert_allclose(found[["low", "high"]].to_numpy().T, bounds, atol=0.03)
    alone = stats.aggregates(stats.at_step(runs, evals, 40), reps=10_000)
    last, whole = found.iloc[-1], alone[alone["metric"] == "IQM"].iloc[0]
    assert last["estimate"] == pytest.approx(whole["estimate"])
    assert [last["low"], last["high"]] == pytest.approx([whole["low"], whole["high"]], abs=0.03)


@pytest.mark.parametrize("count", range(2, 13))
def test_the_iqm_from_counts_is_that_of_the_draws(count):
    random = np.random.default_rng(count)
    values = np.round(random.normal(size=count), 1)  # rounded: some tie
    drawn = random.integers(count, size=(50, count))
    times = np.stack([np.bincount(line, minlength=count) for line in drawn], axis=1).astype(np.int16)
    np.testing.assert_allclose(drawn_iqm(values, times), iqm(values[drawn][:, None, :]), atol=1e-12)


def test_a_curve_holds_the_steps_that_every_run_has_up_to_the_one_reported():
    first = grid(
        {"a": {0: [(10, 0.1), (20, 0.2), (30, 0.3), (40, 0.9)], 1: [(10, 0.3), (30, 0.5), (40, 0.9)]}}, step=40
    )
    runs, evals = join(first, curved(np.ones((2, 1, 2)), every=15, algo="td3"))
    evals["task"] = runs["task"] = "a"
    found = stats.curves(stats.at_step(runs, evals, 30), evals, 30, reps=REPS)
    sac, td3 = found[found["algo"] == "sac"], found[found["algo"] == "td3"]
    assert sac["step"].tolist() == [10, 30]
    assert sac["estimate"].tolist() == pytest.approx([0.2, 0.4])
    assert td3["step"].tolist() == [15, 30]


def test_a_curve_leaves_a_diverged_run_at_its_last_finite_evaluation():
    scores = np.array([[[0.1, 0.2, np.nan, np.inf]], [[0.3, 0.4, 0.6, 0.8]]])
    runs, evals = curved(scores)
    found = stats.curves(stats.at_step(runs, evals, 40), evals, 40, reps=REPS)
    assert found["estimate"].tolist() == pytest.approx([0.2, 0.3, 0.4, 0.5])
    tasks = stats.task_curves(runs, evals, 40, reps=REPS)
    assert tasks["estimate"].tolist() == pytest.approx([200, 300, 400, 500])
    assert tasks[["low", "high"]].notna().all(axis=None)


def test_a_curve_carries_a_run_that_ended_diverged_on_to_where_the_others_go():
    ended = grid({"a": {0: [(10, 0.1), (20, 0.3), (30, np.nan)], 1: [(10, 0.5)]}}, step=40, **DIVERGED)
    whole = curved(np.array([[[0.3, 0.4, 0.6, 0.8]]]))
    whole[0]["seed"] = whole[1]["seed"] = 2
    whole[0]["task"] = whole[1]["task"] = "a"
    runs, evals = join(ended, whole)
    found = stats.curves(stats.at_step(runs, evals, 40), evals, 40, reps=REPS)
    assert found["step"].tolist() == [10, 20, 30, 40]
    assert found["estimate"].tolist() == pytest.approx([0.3, 0.4, 1.4 / 3, 1.6 / 3])
    tasks = stats.task_curves(runs, evals, 40, reps=REPS)
    assert tasks["step"].tolist() == [10, 20, 30, 40]
    assert tasks["estimate"].tolist() == pytest.approx([300, 400, 1400 / 3, 1600 / 3])


def test_a_tasks_curve_is_of_the_runs_that_count_or_of_all_where_none_does():
    scores = np.array([[[0.1, 0.2, 0.3, 0.4]], [[0.3, 0.4, 0.5, 0.6]]])
    runs, evals = join(curved(scores), grid({"t0": {2: [(10, 0.9), (20, 0.9)]}}, status="failed", error="Boom"))
    found = stats.task_curves(runs, evals, 40, reps=REPS)
    assert found["step"].tolist() == [10, 20, 30, 40]
    assert found["estimate"].tolist() == pytest.approx([200, 300, 400, 500])
    assert set(found["seeds"]) == {2}
    early = stats.task_curves(runs, evals, 20, reps=REPS)
    assert early["step"].tolist() == [10, 20]
    assert set(early["seeds"]) == {3}
    assert stats.task_curves(runs, evals, 80, reps=REPS)["step"].tolist() == [10, 20]


def test_a_curve_of_one_seed_has_no_interval_and_one_without_complete_seeds_is_none():
    runs, evals = join(curved(np.ones((1, 2, 2))), curved(np.ones((3, 1, 2)), algo="td3"))
    table = stats.at_step(runs, evals, 20)
    for found in (stats.curves(table, evals, 20, reps=REPS), stats.profiles(table, reps=REPS)):
        assert set(found["algo"]) == {"sac"}
        assert found[["low", "high"]].isna().all(axis=None)
    tasks = stats.task_curves(runs, evals, 20, reps=REPS)
    assert tasks.groupby("algo")["low"].apply(lambda low: low.isna().all()).to_dict() == {"sac": True, "td3": False}
    assert tasks.groupby("algo")["seeds"].unique().to_dict() == {"sac": [1], "td3": [3]}


def test_a_curve_knows_its_training_time_where_that_is_recorded():
    runs, evals = curved(np.ones((2, 1, 2)))
    table = stats.at_step(runs, evals, 20)
    assert stats.curves(table, evals, 20, reps=REPS)["seconds"].isna().all()
    timed = evals.assign(seconds=evals["step"] * (1.0 + evals["seed"]))
    assert stats.curves(table, timed, 20, reps=REPS)["seconds"].tolist() == [15, 30]


RUNS, EVALS = join(*(curved(np.random.default_rng(3).uniform(size=(5, 3, 4)), algo=algo) for algo in ("sac", "td3")))
TABLE = stats.at_step(RUNS, EVALS, 40)


@pytest.mark.parametrize("function", [stats.profiles, lambda t, **options: stats.curves(t, EVALS, 40, **options)])
def test_profiles_and_curves_repeat_and_stand_alone(function):
    first = function(TABLE, reps=REPS)
    pd.testing.assert_frame_equal(first, function(TABLE, reps=REPS))
    assert not first["low"].equals(function(TABLE, reps=REPS, seed=1)["low"])
    alone = function(TABLE[TABLE["algo"] == "td3"], reps=REPS)
    pd.testing.assert_frame_equal(alone, first[first["algo"] == "td3"].reset_index(drop=True))
    with pytest.raises(ValueError, match="reps"):
        function(TABLE, reps=0)


def test_a_large_grid_is_resampled_in_pieces(monkeypatch):
    whole = stats.aggregates(TABLE, reps=REPS)
    monkeypatch.setattr(bootstrap, "CHUNK", 100)
    pd.testing.assert_frame_equal(whole, stats.aggregates(TABLE, reps=REPS))
