"""The group-sequential test: p-values by hand, false verdicts counted, looking again changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from frames import grid, join, table_of

from flowbench import stats
from flowbench.stats import rank_tests, sequential


def table(**scores):
    """Each algorithm's scores, [seeds] of one task or [tasks, seeds]."""
    return table_of(
        *(
            grid({f"t{t}": dict(enumerate(of_task)) for t, of_task in enumerate(np.atleast_2d(own))}, algo=algo)
            for algo, own in scores.items()
        )
    )


@pytest.mark.parametrize(
    ("most", "wanted"),
    [(2, (2,)), (3, (3,)), (5, (5,)), (8, (4, 8)), (12, (6, 12)), (20, (5, 10, 15, 20)), (22, (6, 11, 16, 22))],
)
def test_looks_come_every_five_seeds_or_so(most: int, wanted: tuple[int, ...]) -> None:
    assert stats.looks(most) == wanted


@pytest.mark.parametrize("seed", range(3))
def test_with_one_look_it_is_the_rank_test(seed: int) -> None:
    random = np.random.default_rng(seed)
    x, y = random.normal(0.8, 1, 5).round(1), random.normal(0, 1, 5).round(1)  # some tie
    (pair,) = stats.pairs(table(a=x, b=y), (5,), reps=20_000)
    assert pair.p == pytest.approx(rank_tests.p_value(x, y), abs=4 * np.sqrt(0.25 / 20_000))
    assert pair.estimate == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a in x for b in y]))
    assert pair.seeds == 5


def test_a_look_spends_its_part_of_the_level() -> None:
    """Three against three, all of one above all of the other: 2 of 20 orders are as extreme, at one look of four."""
    (pair,) = stats.pairs(table(a=[4, 5, 6], b=[1, 2, 3]), (3, 6, 9, 12), reps=40_000)
    assert pair.p == pytest.approx(4 * 2 / 20, abs=0.02)
    assert (pair.seeds, pair.estimate, pair.verdict) == (3, 1.0, "undecided")


def test_two_seeds_give_no_verdict() -> None:
    tasks = 8  # the least p is 2 / 6^8
    scores = {"a": np.full((tasks, 2), 2.0), "b": np.full((tasks, 2), 1.0)}
    (pair,) = stats.pairs(table(**scores), (2,))
    assert pair.p < 0.001
    assert (pair.seeds, pair.estimate, pair.verdict) == (2, 1.0, "undecided")
    more = {name: np.concatenate([own, own[:, :1]], axis=1) for name, own in scores.items()}
    assert stats.pairs(table(**more), (3,))[0].verdict == "better"


def test_two_looks_by_hand() -> None:
    """Two and two more: 2 of 6 orders are extreme at the first look, 2 of 36 are at the second of those still there.

    Of the 36 ways to exchange runs within the looks, 12 leave at the first look, when a third may. The second look's
    statistic is extreme where all four of one lie above all four of the other, which no way that is left does; the
    next are the ways with one pair turned round, and so on: counted here one after the other.
    """
    from itertools import combinations, product

    x, y = np.array([2.0, 5.0, 6.0, 8.0]), np.array([1.0, 3.0, 4.0, 7.0])
    (pair,) = stats.pairs(table(a=x, b=y), (2, 4), reps=60_000)

    def share(a, b):
        return abs(np.mean([p > q for p in a for q in b]) - 0.5)

    ways = []
    for first, second in product(combinations(range(4), 2), repeat=2):
        runs = np.array([[*x[:2], *y[:2]], [*x[2:], *y[2:]]])
        one = [runs[0][list(first)], runs[1][list(second)]]
        two = [np.delete(runs[0], first), np.delete(runs[1], second)]
        ways.append((share(one[0], two[0]), share(np.concatenate(one), np.concatenate(two))))
    own = (share(x[:2], y[:2]), share(x, y))
    room = 0
    while True:  # how many of the 36 exchanges each look may use up
        room += 1
        left = sorted((way for way in ways), reverse=True)
        limit = sorted((way[0] for way in left), reverse=True)[room]
        gone = own[0] > limit
        left = [way for way in left if way[0] <= limit]
        if not gone:
            values = sorted((way[1] for way in left), reverse=True)
            gone = room >= len(values) or own[1] > values[room]
        if gone:
            break
    assert pair.p == pytest.approx(min(1.0, 2 * room / 36), abs=0.02)


def test_what_an_earlier_look_let_go_of_is_gone() -> None:
    """Each look lets go of one of these rows; row 0 is the most extreme at the last only without those before it."""
    two = np.array([[0.1, 0.45], [0.5, 0.5], [0.2, 0.4]])
    assert sequential._crossing(two, 1) == 1
    three = np.array([[0.1, 0.1, 0.45], [0.5, 0.0, 0.5], [0.2, 0.3, 0.4], [0.0, 0.2, 0.0]])
    assert sequential._crossing(three, 1) == 2
    assert sequential._crossing(np.array([[0.5, 0.1], [0.5, 0.2], [0.4, 0.3]]), 1) is None  # a tie stays together


def test_tasks_are_exchanged_apart() -> None:
    scores = np.random.default_rng(0).normal(size=(2, 5))
    one = sequential._paths(scores[:1], scores[1:], (5,), 50, 0)
    alike = sequential._paths(scores[[0, 0]], scores[[1, 1]], (5,), 50, 0)
    assert alike[0] == pytest.approx(one[0])
    assert not np.allclose(alike, one)


@pytest.mark.parametrize(
    ("plan", "tasks", "pairs", "least"),
    [
        ((2,), 1, 1, 1 / 3),
        ((3,), 1, 1, 0.1),
        ((5,), 1, 1, 2 / 252),
        ((5, 10), 1, 3, 2 / 252**2 * 6),
        ((2,), 3, 1, 2 / 216),
    ],
)
def test_the_smallest_p_there_can_be(plan, tasks: int, pairs: int, least: float) -> None:
    assert stats.least_p(plan, tasks, pairs) == pytest.approx(least)


def test_there_are_permutations_enough_for_many_looks_and_pairs() -> None:
    scores = {name: np.arange(20) + 100 * k for k, name in enumerate("abcdef")}
    found = stats.pairs(table(**scores), tuple(range(1, 21)))
    assert {pair.verdict for pair in found} == {"worse"}


def test_looking_again_and_again_finds_no_more_than_five_percent() -> None:
    """500 comparisons of equal algorithms, looked at after 4, 8, 12, 16 seeds; a fixed test at each finds far more."""
    random = np.random.default_rng(0)
    plan, wrong, naive = (4, 8, 12, 16), 0, 0
    frame = table(a=np.zeros(16), b=np.zeros(16))
    for _ in range(500):
        x, y = random.normal(size=(2, 16))
        frame = frame.assign(score=[*x, *y])
        wrong += stats.pairs(frame, plan, reps=399)[0].verdict != "undecided"
        naive += any(rank_tests.p_value(x[:n], y[:n]) <= 0.05 for n in plan)
    assert wrong / 500 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 500)
    assert wrong / 500 > 0.01  # and it is a test, not a refusal
    assert naive / 500 > 0.08


def test_a_difference_is_found_on_its_side() -> None:
    random = np.random.default_rng(1)
    high, low = random.normal(1.5, 1, (3, 10)), random.normal(0, 1, (3, 10))
    (better,) = stats.pairs(table(a=high, b=low), (5, 10))
    (worse,) = stats.pairs(table(a=low, b=high), (5, 10))
    assert (better.verdict, worse.verdict) == ("better", "worse")
    assert better.p <= 0.05
    assert better.estimate == pytest.approx(1 - worse.estimate)


def test_a_pair_once_decided_stays_decided() -> None:
    """Whatever the later looks bring, what an earlier one found stands: the same command ends with the same verdict."""
    random = np.random.default_rng(2)
    high, low = random.normal(2, 1, (3, 10)), random.normal(0, 1, (3, 10))
    early = stats.pairs(table(a=high[:, :5], b=low[:, :5]), (5, 10))[0]
    turned = np.concatenate([high[:, :5], low[:, 5:]], axis=1), np.concatenate([low[:, :5], high[:, 5:]], axis=1)
    late = stats.pairs(table(a=turned[0], b=turned[1]), (5, 10))[0]
    assert early.verdict == late.verdict == "better"
    assert late.p <= early.p
    assert late.seeds == 10


def test_pairs_are_corrected_together() -> None:
    random = np.random.default_rng(3)
    a, b, c = random.normal(0.8, 1, (4, 5)), random.normal(0, 1, (4, 5)), random.normal(0, 1, (4, 5))
    alone = {(pair.algo, pair.over): pair.p for pair in stats.pairs(table(a=a, b=b), (5, 10))}
    together = {(pair.algo, pair.over): pair.p for pair in stats.pairs(table(a=a, b=b, c=c), (5, 10))}
    assert set(together) == {("a", "b"), ("a", "c"), ("b", "c")}
    raw = [stats.pairs(table(x=x, y=y), (5, 10))[0].p for x, y in ((a, b), (a, c), (b, c))]
    assert list(together.values()) == pytest.approx(rank_tests.holm(raw))
    assert together["a", "b"] > alone["a", "b"]


def test_a_look_needs_all_its_seeds_on_every_task() -> None:
    full = {s: s / 10 for s in range(10)}
    holed = {s: score for s, score in full.items() if s != 7}
    scores = join(grid({"t0": full, "t1": full}, algo="a"), grid({"t0": full, "t1": holed}, algo="b"))
    (pair,) = stats.pairs(stats.at_step(*scores, 100), (5, 10), reps=100)
    assert pair.seeds == 5
    (none,) = stats.pairs(table(a=[0.1, 0.2], b=[0.3, 0.4]), (5, 10), reps=100)
    assert (none.seeds, none.p, none.verdict) == (0, 1.0, "undecided")
    assert np.isnan(none.estimate)
