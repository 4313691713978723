"""Estimates, against sums worked out by hand."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
from fakes import make_cell, make_suite

from flowbench.common import system
from flowbench.grid import cost_model
from flowbench.grid.cost_model import Here, Need
from flowbench.schedule.groups import Group
from flowbench.schedule.resources import Slots
from flowbench.store import checkpoint, records
from flowbench.store.records import RunRecord
from flowbench.train.replay import Replay

SUITE = make_suite(steps=1000, every=250, episodes=2)
HERE = Here("cpu", "EPYC", 2, 1, "float32")
CARD = Here("cuda", "H100", 4, 1, "tf32")


def cell(seed: int = 0, **changes):
    return make_cell("td3", suite=SUITE, seed=seed, **{"random_steps": 200, "replay_size": 500, **changes})


def group(seeds: int = 1, **changes) -> Group:
    return Group(tuple(cell(seed, **changes) for seed in range(seeds)))


def record(seed: int = 0, seeds: int = 1, changed=None, **changes):
    """A run of 1000 steps: 10 s until training began, 3 of them on the clock; 100 s of training; 8 s of evaluation."""
    made = RunRecord.of(cell(seed, **changes), list(range(seeds)))
    wall = {"environment": 20.0, "act": 8.0, "replay": 4.0, "update": 60.0, "evaluation": 8.0, "other": 11.0}
    made |= {
        "status": "done",
        "startup": 10.0,
        "seconds": 118.0,
        "wall": {**wall, "total": sum(wall.values())},
        "memory": {"host_bytes": 10**9, "gpu_bytes": None},
        "sizes": {"obs": 3, "act": 1},
        "learner": {"kind": "separate", "replay": "cpu", "evaluation_processes": 0},
        "machine": {"cpu": "EPYC", "gpu": None},
        "precision": "float32",
        "threads": 2,
        "device": "cpu",
    }
    return made | (changed or {})


ON_CARD = {
    "device": "cuda",
    "machine": {"cpu": "EPYC", "gpu": "H100"},
    "precision": "tf32",
    "threads": 4,
    "memory": {"host_bytes": 2 * 10**9, "gpu_bytes": 5 * 10**9},
    "learner": {"kind": "stacked", "replay": "cuda", "evaluation_processes": 1},
}


# Time


@pytest.mark.parametrize(
    ("changes", "step", "seconds"),
    [
        # 10 + 28 of every step (20, and 11 less the 3 of building) + 72 of the 800 steps with updates + 8 of 8 episodes
        ({}, 0, 118.0),
        ({"steps": 4000}, 0, 10 + 112 + 342 + 32),
        ({"steps": 4000, "every": 2000, "episodes": 1}, 0, 10 + 112 + 342 + 2),
        ({"steps": 4000, "every": 3000, "episodes": 2}, 0, 10 + 112 + 342 + 4),  # the last step is evaluated, too
        ({"random_steps": 600}, 0, 10 + 28 + 36 + 8),
        ({}, 100, 10 + 25.2 + 72 + 8),  # goes on amid the random steps
        ({}, 500, 10 + 14 + 45 + 4),
        ({}, 750, 10 + 7 + 22.5 + 2),
        ({"lr": 1e-5}, 0, 118.0),
    ],
)
def test_seconds_follow_from_what_each_thing_took(changes, step, seconds) -> None:
    need = cost_model.need(group(**changes), [record()], HERE, step)
    assert need is not None
    assert need.seconds == pytest.approx(seconds)


def test_evaluation_beside_training_is_waited_for_once() -> None:
    beside = record(changed=ON_CARD)
    need = cost_model.need(group(steps=4000), [beside], CARD)
    assert need is not None
    assert need.seconds == pytest.approx(10 + 112 + 342 + 8)


def test_of_several_runs_the_median_counts() -> None:
    records = [record(seed, changed={"seconds": 118.0 + more, "startup": 10.0 + more}) for seed, more in
               enumerate((0, 2, 90))]  # fmt: skip
    need = cost_model.need(group(), records, HERE)
    assert need is not None
    assert (need.seconds, need.basis) == (pytest.approx(120.0), "3 earlier runs")


@pytest.mark.parametrize(
    ("needs", "jobs", "expected"),
    [
        ([], 2, 0.0),
        ([5, 5, 5], 1, 15.0),
        ([5, 1, 1, 1], 2, 5.0),  # three short ones beside the long one
        ([1, 1, 1, 5], 2, 6.0),  # in their order: the long one comes last
        ([5, None], 2, None),
    ],
)
def test_a_grid_ends_with_its_last_group(needs, jobs, expected) -> None:
    assert cost_model.duration([need and Need(need, 1, None, "") for need in needs], jobs) == expected


# Which runs tell


@pytest.mark.parametrize(
    ("asked", "changed", "basis"),
    [
        ({}, {}, "1 earlier run"),
        ({"lr": 1e-5}, {}, "1 earlier run, with other settings"),
        ({"random_steps": 300, "replay_size": 50, "steps": 500}, {}, "1 earlier run"),
        ({}, {"threads": 1}, "1 earlier run, with 1 thread"),
        ({}, {"threads": 8, "machine": {"cpu": "Xeon", "gpu": None}}, "1 earlier run, on Xeon, with 8 threads"),
        ({}, {"per_gpu": 3}, "1 earlier run, 3 per GPU"),
        ({}, {"calibration": True}, "calibration"),
    ],
)
def test_the_basis_says_what_differs(asked, changed, basis) -> None:
    need = cost_model.need(group(**asked), [record(changed=changed)], HERE)
    assert need is not None
    assert need.basis == basis


@pytest.mark.parametrize(
    ("asked", "seeds", "changed"),
    [
        ({"hidden": 16}, 1, {}),  # another size
        ({}, 2, {}),  # another number of seeds together
        ({}, 1, ON_CARD),  # another device
        ({"random_steps": 200}, 1, {"protocol": {"steps": 200, "every": 250, "episodes": 2}}),  # it never learned
    ],
)
def test_runs_that_did_something_else_tell_nothing(asked, seeds, changed) -> None:
    assert cost_model.need(group(seeds, **asked), [record(changed=changed)], HERE) is None


def test_another_task_or_algorithm_tells_nothing() -> None:
    other = record()
    other["task"]["name"] = "Acrobot-v1"
    assert cost_model.need(group(), [other], HERE) is None
    other = record()
    other["algo"]["name"] = "sac"
    assert cost_model.need(group(), [other], HERE) is None


def test_the_nearest_run_is_taken() -> None:
    own = record(changed={"threads": 1, "startup": 11.0, "seconds": 119.0})
    records = [record(lr=1e-5), own, record(changed={"machine": {"cpu": "Xeon", "gpu": None}})]
    need = cost_model.need(group(), records, HERE)
    assert need is not None
    assert (need.seconds, need.basis) == (pytest.approx(119.0), "1 earlier run, with 1 thread")


def test_each_group_has_its_own_need() -> None:
    groups = [group(), group(steps=4000), group(hidden=16), group()]
    needs = cost_model.needs(groups, [record()], HERE, [0, 0, 0, 500])
    assert [need and need.seconds for need in needs] == [
        pytest.approx(118),
        pytest.approx(496),
        None,
        pytest.approx(73),
    ]
    assert cost_model.one_of_each(groups) == groups[:3]


def test_earlier_runs_are_those_that_are_finished_and_say_what_they_took(tmp_path: Path) -> None:
    def keep(run, **changes):
        for key, value in changes.items():
            run[key] = value
            if value is None:
                del run[key]
        records.write_run(tmp_path / cell(run["seed"]).path, run)

    keep(record(0))
    keep(record(1), status="failed")
    keep(record(2), memory=None)  # of an earlier version
    folder = tmp_path / cell(3).path
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{")
    other = make_cell("sac", suite=SUITE)
    records.write_run(tmp_path / other.path, {**record(), **RunRecord.of(other, [0]), "status": "done"})
    assert [found["seed"] for found in cost_model.earlier(tmp_path, [cell(9)])] == [0]
    assert cost_model.earlier(tmp_path / "none", [cell(9)]) == []


def test_a_group_goes_on_from_where_all_its_cells_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = {tmp_path / cell(0).path: [250, 500], tmp_path / cell(1).path: [250]}
    monkeypatch.setattr(checkpoint, "steps", lambda folder: saved.get(folder, []))
    assert cost_model.reached(tmp_path, group(1)) == 500
    assert cost_model.reached(tmp_path, group(2)) == 250
    assert cost_model.reached(tmp_path, group(3)) == 0


# Memory


def replay(steps: int = 1000, seeds: int = 1, **changes) -> int:
    return Replay.bytes_needed(range(seeds), 3, 1, cell(**changes).variant.config, steps)


@pytest.mark.parametrize("changes", [{}, {"replay_size": 10**6, "steps": 10**5}, {"steps": 300}])
def test_the_replay_is_counted_by_its_own_size(changes) -> None:
    need = cost_model.need(group(**changes), [record()], HERE)
    more = replay(**changes) - replay()
    assert need is not None
    assert (need.host_bytes, need.gpu_bytes) == (10**9 + more, None)
    assert (more > 0) == ("replay_size" in changes)


@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_the_replay_is_counted_where_it_lies(place: str) -> None:
    changed = copy.deepcopy(ON_CARD)
    changed["learner"]["replay"] = place
    need = cost_model.need(group(3, replay_size=10**6, steps=10**6), [record(seeds=3, changed=changed)], CARD)
    more = replay(10**6, 3, replay_size=10**6) - replay(seeds=3)
    assert need is not None
    assert need.host_bytes == 2 * 10**9 + (more if place == "cpu" else 0)
    assert need.gpu_bytes == 5 * 10**9 + (more if place == "cuda" else 0)


def test_memory_of_the_largest_that_may_come_together() -> None:
    needs = [Need(1, size, 10 * size, "") for size in (1, 5, 2, 4)]
    assert cost_model.host_bytes(needs, 1) == 5
    assert cost_model.host_bytes(needs, 3) == 11
    assert cost_model.host_bytes(needs, 9) == 12
    assert cost_model.gpu_bytes(needs, 2) == 90
    assert cost_model.host_bytes([*needs, None], 1) is None
    assert cost_model.gpu_bytes([Need(1, 1, None, "")], 1) is None


# Groups a GPU


@pytest.mark.parametrize(
    ("gpus", "card", "main", "cores", "expected", "why"),
    [
        (2, 80, 1000, 64, 6, "10.0 GiB of a GPU's 80.0 GiB"),  # 68 GiB hold six
        (2, 80, 100, 64, 2, "20.0 GiB of the 100.0 GiB of main memory"),  # 85 GiB hold four, two a GPU
        (2, 80, 1000, 6, 3, "6 cores"),
        (2, 8, 1000, 64, 1, "of a GPU's 8.0 GiB"),  # never none
        (2, 80, 10, 64, 1, "main memory"),
        (2, None, 1000, 64, 1, "the driver does not tell"),
    ],
)
def test_as_many_share_a_gpu_as_memory_and_cores_allow(gpus, card, main, cores, expected, why) -> None:
    needs = [Need(1, 20 * 2**30, 5 * 2**30, ""), Need(1, 2**30, 10 * 2**30, "")]
    number, told = cost_model.per_gpu(needs, gpus, card and card * 2**30, main * 2**30, cores)
    assert number == expected
    assert why in told


@pytest.mark.parametrize("unknown", [None, Need(1, 1, None, ""), Need(1, None, 1, "")])
def test_one_a_gpu_where_nothing_is_known(unknown) -> None:
    number, why = cost_model.per_gpu([Need(1, 1, 1, ""), unknown], 1, 2**40, 2**40, 64)
    assert number == 1
    assert "1 of 2" in why
    assert "--calibrate" in why


# In words


def test_here_is_what_the_slots_make_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "cpu_model", lambda: "EPYC")
    assert Here.of(Slots(4, "cpu", 2)) == HERE
    monkeypatch.setattr(system, "gpu_model", lambda gpu: ("H100", 1) if gpu == "GPU-1" else None)
    shared = Slots(4, "auto", 4, ("GPU-1",), "tf32", per_gpu=2)
    assert Here.of(shared) == dataclasses.replace(CARD, per_gpu=2)
    assert Here.of(dataclasses.replace(shared, gpus=("MIG-1",))).processor == ""


@pytest.mark.parametrize(("seconds", "told"), [(4.4, "4 s"), (90, "1.5 min"), (3600, "1.0 h"), (10**6, "277.8 h")])
def test_durations_for_people(seconds, told) -> None:
    assert cost_model.hours(seconds) == told
