"""Tests of two algorithms, compared with scipy and with all permutations, and the verdicts that follow from them."""

from importlib import import_module
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from frames import grid, table_of
from scipy.stats import mannwhitneyu

from flowbench import stats
from flowbench.stats import power, rank_tests

REPS = 500


def table(x, y):
    """The table of two algorithms, {task: [score, ...]} each."""
    return table_of(
        *(
            grid({task: dict(enumerate(map(float, scores))) for task, scores in of_tasks.items()}, algo=algo)
            for algo, of_tasks in (("sac", x), ("td3", y))
        )
    )


def shifted(tasks, seeds, *, by, seed=0):
    random = np.random.default_rng(seed)
    return tuple({f"t{t:02}": random.normal(shift, 1, seeds) for t in range(tasks)} for shift in (by, 0.0))


@pytest.mark.parametrize(("runs", "over_runs"), [(5, 5), (3, 7), (8, 6), (1, 4), (10, 10)])
def test_the_p_value_is_that_of_the_exact_mann_whitney_test(runs, over_runs):
    random = np.random.default_rng(runs)
    x, y = random.normal(0.8, size=runs), random.normal(size=over_runs)
    assert rank_tests.p_value(x, y) == pytest.approx(mannwhitneyu(x, y, method="exact").pvalue)


@pytest.mark.parametrize(("x", "y"), [([1, 2, 2, 3], [0, 1, 1, 2, 2]), ([1, 1, 1], [1, 1]), ([3, 3, 3], [1, 2, 2])])
def test_ties_are_counted_over_all_permutations(x, y):
    x, y = np.array(x, dtype=float), np.array(y, dtype=float)
    everything = np.concatenate([x, y])

    def share(chosen):
        own, rest = everything[list(chosen)], np.delete(everything, list(chosen))
        return np.mean((np.sign(own[:, None] - rest) + 1) / 2)

    observed = abs(share(range(len(x))) - 0.5)
    every = np.array([share(chosen) for chosen in combinations(range(len(everything)), len(x))])
    assert rank_tests.p_value(x, y) == pytest.approx((np.abs(every - 0.5) >= observed - 1e-9).mean())


def test_the_least_p_value():
    assert rank_tests.least_p(5, 5) == pytest.approx(2 / 252)
    assert rank_tests.least_p(2, 2) == pytest.approx(2 / 6)


def test_holm_worked_out_by_hand():
    # Sorted: .01 .02 .03 .2 times 4 3 2 1, never falling.
    assert rank_tests.holm([0.03, 0.01, 0.2, 0.02]) == pytest.approx([0.06, 0.04, 0.2, 0.06])
    assert rank_tests.holm([0.5, 0.9]) == [1.0, 1.0]
    assert rank_tests.holm([]) == []


def test_the_test_over_tasks_of_one_task_is_that_tasks():
    x, y = np.array([3.0, 4, 5, 9, 7]), np.array([1.0, 2, 6, 0, 3])
    assert rank_tests.stratified_p_value([(x, y)], 20_000, 0) == pytest.approx(rank_tests.p_value(x, y), abs=0.005)


@pytest.mark.parametrize("tasks", [1, 3])
def test_equal_algorithms_are_seldom_told_apart(tasks):
    decided = 0
    for trial in range(200):
        x, y = shifted(tasks, 5, by=0, seed=trial)
        samples = [(x[task], y[task]) for task in x]
        decided += rank_tests.stratified_p_value(samples, 400, trial) <= stats.LEVEL
    assert decided <= 200 * stats.LEVEL + 3 * np.sqrt(200 * 0.05 * 0.95)


def test_what_is_better_where():
    x = {"a": [6, 7, 8, 9, 10], "b": [1, 2, 3, 4, 5], "c": [1, 3, 5, 7, 9]}
    y = {"a": [1, 2, 3, 4, 5], "b": [6, 7, 8, 9, 10], "c": [2, 4, 6, 8, 10], "d": [1, 2]}
    overall, each = stats.versus(table(x, y), "sac", "td3", reps=REPS)
    assert each["verdict"].tolist() == ["better", "worse", "undecided"]
    assert each["p"].tolist()[:2] == pytest.approx([2 / 252] * 2)
    assert each["p_holm"].tolist()[:2] == pytest.approx([6 / 252] * 2)
    assert each["difference"].tolist() == pytest.approx([5, -5, -1])
    row = overall.iloc[0]
    assert (row["tasks"], row["seeds"], row["over_seeds"], row["verdict"]) == (3, 5, 5, "undecided")
    assert row["estimate"] == pytest.approx((1 + 0 + 0.4) / 3)
    turned, turned_each = stats.versus(table(x, y), "td3", "sac", reps=REPS)
    assert turned_each["verdict"].tolist() == ["worse", "better", "undecided"]
    assert turned["estimate"].item() == pytest.approx(1 - row["estimate"])
    assert turned["difference"].item() == pytest.approx(-row["difference"])


def test_its_numbers_and_verdicts_are_those_of_the_report():
    made = table(*shifted(3, 5, by=0.5))
    for frame, reported in zip(
        stats.versus(made, "sac", "td3", reps=REPS), stats.improvement(made, reps=REPS), strict=True
    ):
        pd.testing.assert_frame_equal(frame[list(reported)], reported)


def test_the_correction_for_many_tasks_takes_decisions_back():
    overall, each = stats.versus(table(*shifted(15, 5, by=9)), "sac", "td3", reps=REPS)
    assert set(each["verdict"]) == {"too few seeds"}  # 15 * 2 / 252 > 0.05: no task could be decided
    assert set(each["needed"]) == {6}
    assert overall["verdict"].item() == "better"
    assert overall["needed"].isna().all()


def test_one_seed_decides_nothing_and_shows_no_spread():
    overall, each = stats.versus(table({"a": [5]}, {"a": [1, 2, 3]}), "sac", "td3", reps=REPS)
    for frame in (overall, each):
        assert frame[["low", "high", "difference_low", "difference_high"]].isna().all(axis=None)
        assert frame["verdict"].item() == "too few seeds"
        assert frame["needed"].isna().all()


def test_no_common_task_is_no_comparison():
    overall, each = stats.versus(table({"a": [1, 2]}, {"b": [1, 2]}), "sac", "td3", reps=REPS)
    assert each.empty
    assert (overall["tasks"].item(), overall["verdict"].item()) == (0, "no common task")


def test_few_resamples_do_not_keep_the_test_from_deciding():
    made = table(*shifted(3, 5, by=9))
    few, many = (stats.versus(made, "sac", "td3", reps=reps)[0] for reps in (10, REPS))
    assert few["verdict"].item() == "better"
    assert few["p"].item() == many["p"].item() < 0.001


@pytest.mark.parametrize(
    ("x", "y", "verdict"),
    [
        ([6, 7, 8, 9, 10], [1, 2, 3, 4, 5], "better"),
        ([1, 2, 3, 4, 5], [6, 7, 8, 9, 10], "worse"),
        ([1, 3, 5, 7, 9], [2, 4, 6, 8, 10], "undecided"),
        ([1, 1, 1, 1, 1], [1, 1, 1, 1, 1], "undecided"),
        ([7, 8, 9, 10], [1, 2, 3, 4], "better"),  # 2 of 70 orders are as extreme
        ([7, 8, 9], [1, 2, 3], "too few seeds"),  # 2 of 20
        ([8, 9], [1, 2, 3, 4, 5, 6, 7], "too few seeds"),  # 2 of 36, but two seeds never have a verdict
    ],
)
def test_verdicts(x, y, verdict):
    for frame in stats.improvement(table({"a": x}, {"a": y}), reps=10):
        assert frame["verdict"].item() == verdict
    for frame in stats.versus(table({"a": y}, {"a": x}), "td3", "sac", reps=10):
        assert frame["verdict"].item() == verdict


def test_two_seeds_are_too_few_for_any_number_of_tasks_and_three_are_enough_for_two():
    x, y = (dict.fromkeys("abcdefg", scores) for scores in ([8, 9], [1, 2]))
    for frame in stats.improvement(table(x, y), reps=10):
        assert set(frame["verdict"]) == {"too few seeds"}
    x, y = (dict.fromkeys("ab", scores) for scores in ([7, 8, 9], [1, 2, 3]))
    overall, each = stats.improvement(table(x, y), reps=10)
    assert (overall["verdict"].item(), set(each["verdict"])) == ("better", {"too few seeds"})


def test_either_order_of_the_two_gives_the_same_verdict():
    made = table(*shifted(3, 5, by=0.9))
    for one, other in zip(
        *(stats.versus(made, *names, reps=REPS) for names in (("sac", "td3"), ("td3", "sac"))), strict=True
    ):
        assert one["p"].tolist() == other["p"].tolist()
        assert one[["estimate", "low", "high"]].values == pytest.approx(1 - other[["estimate", "high", "low"]].values)


def test_verdicts_over_the_tasks_are_corrected_for_the_pairs_with_a_common_task():
    x, y = shifted(3, 5, by=9)
    made = table_of(
        *(grid({t: dict(enumerate(s)) for t, s in each.items()}, algo=algo) for algo, each in (("sac", x), ("td3", y))),
        grid({"t00": {0: 0.5}, "t99": {0: 0.5}}, algo="x"),
        grid({"t99": {0: 1.0}}, algo="z"),
    )
    found = stats.improvement(made, reps=10, seed=3)[0].set_index(["algo", "over"])
    p = stats.versus(made, "sac", "td3", reps=10, seed=3)[0]["p"].item()
    row = found.loc[("sac", "td3")]
    assert (row["p"], row["p_holm"], row["tests"]) == (p, 4 * p, 4)  # the other pairs can decide nothing
    assert found["verdict"].to_dict() == {
        ("sac", "td3"): "better",
        ("sac", "x"): "too few seeds",
        ("sac", "z"): "no common task",
        ("td3", "x"): "too few seeds",
        ("td3", "z"): "no common task",
        ("x", "z"): "too few seeds",
    }


def test_pairs_with_published_curves_change_no_verdict_on_ours():
    scores = [*zip(("sac", "td3"), shifted(3, 5, by=9), strict=True), ("x", shifted(3, 5, by=5)[0])]
    made = table_of(*(grid({t: dict(enumerate(s)) for t, s in each.items()}, algo=algo) for algo, each in scores))
    together, apart = (
        stats.improvement(made.assign(published=made["algo"].isin(names)), reps=10)[0].set_index(["algo", "over"])
        for names in ((), ("x",))
    )
    assert together["tests"].tolist() == [3, 3, 3]
    assert apart["tests"].tolist() == [1, 2, 2]
    assert apart.loc[("sac", "td3"), "p_holm"] == apart.loc[("sac", "td3"), "p"]
    assert together.loc[("sac", "td3"), "p_holm"] > together.loc[("sac", "td3"), "p"]


def test_many_pairs_get_as_many_permutations_as_a_verdict_takes(monkeypatch):
    monkeypatch.setattr(
        import_module("flowbench.stats.pairs"), "PERMUTATIONS", 50
    )  # p would be 1 / 51 or more, and 15 / 51 after the correction
    grids = (grid({t: {s: 10.0 * k + s for s in range(5)} for t in "ab"}, algo=f"algo{k}") for k in range(6))
    overall, _ = stats.improvement(table_of(*grids), reps=1)
    assert (set(overall["tests"]), set(overall["verdict"])) == ({15}, {"worse"})


def test_it_repeats():
    made = table(*shifted(2, 5, by=0.5))
    for first, second in zip(*(stats.versus(made, "sac", "td3", reps=REPS) for _ in range(2)), strict=True):
        pd.testing.assert_frame_equal(first, second)
    other = stats.versus(made, "sac", "td3", reps=REPS, seed=1)
    assert not other[0]["low"].equals(first["low"])


def test_the_seeds_that_are_needed_decide_as_often_as_they_promise():
    random = np.random.default_rng(0)
    x, y = random.normal(1.2, size=200), random.normal(size=200)  # as good as the distributions themselves
    few = (np.sort(x)[10::20], np.sort(y)[10::20])
    needed = power.seeds_needed([few], stats.LEVEL, 0)
    assert needed is not None
    assert len(few[0]) <= needed <= 20

    def share_decided(seeds):
        tests = (rank_tests.p_value(random.choice(x, seeds), random.choice(y, seeds)) for _ in range(300))
        return np.mean([p <= stats.LEVEL for p in tests])

    assert share_decided(needed) > 0.7
    assert share_decided(needed // 2) < 0.7


def test_equals_need_more_seeds_than_anyone_has():
    same = np.arange(5.0)
    assert power.seeds_needed([(same, same)], stats.LEVEL, 0) is None
    assert power.seeds_needed([(same, same)] * 3, stats.LEVEL, 0) is None


def test_more_tasks_need_fewer_seeds():
    x, y = shifted(8, 5, by=1.2)
    samples = [(x[task], y[task]) for task in x]
    together = power.seeds_needed(samples, stats.LEVEL, 0)
    alone = [power.seeds_needed([sample], stats.LEVEL, 0) or 99 for sample in samples]
    assert together is not None
    assert together < np.median(alone)
