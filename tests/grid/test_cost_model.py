"""Estimates, against sums worked out by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from fakes import make_cell, make_suite
from msgspec.structs import replace

from flowbench.common import system
from flowbench.grid import cost_model
from flowbench.grid.cost_model import Conditions, Cost, Measurement
from flowbench.schedule.groups import Group
from flowbench.schedule.resources import Slots
from flowbench.store import checkpoint, records
from flowbench.store.records import LearnerInfo, MachineInfo, Memory, ProtocolInfo, RunRecord, Sizes
from flowbench.train.replay import Replay

SUITE = make_suite(steps=1000, every=250, episodes=2)
HERE = Conditions("cpu", "EPYC", 2, 1, "float32")
CARD = Conditions("cuda", "H100", 4, 1, "tf32")


def cell(seed: int = 0, **changes):
    return make_cell("td3", suite=SUITE, seed=seed, **{"random_steps": 200, "replay_size": 500, **changes})


def group(seeds: int = 1, **changes) -> Group:
    return Group(tuple(cell(seed, **changes) for seed in range(seeds)))


def record(seed: int = 0, seeds: int = 1, changed=None, **changes) -> RunRecord:
    """A run of 1000 steps: 10 s until training began, 3 of them on the clock; 100 s of training; 8 s of evaluation."""
    wall = {"environment": 20.0, "act": 8.0, "replay": 4.0, "update": 60.0, "evaluation": 8.0, "other": 11.0}
    settings = {
        "status": "done",
        "startup": 10.0,
        "seconds": 118.0,
        "wall": {**wall, "total": sum(wall.values())},
        "memory": Memory(10**9),
        "sizes": Sizes(3, 1),
        "learner": LearnerInfo("separate", "cpu", 0, 0),
        "machine": MachineInfo("EPYC", 2, 2),
        "precision": "float32",
        "threads": 2,
        "device": "cpu",
        **(changed or {}),
    }
    return replace(RunRecord.of(cell(seed, **changes), list(range(seeds))), **settings)


def measured(*arguments, calibration: bool = False, **changes) -> Measurement:
    found = Measurement.of(record(*arguments, **changes))
    assert found is not None
    return dataclasses.replace(found, calibration=calibration)


ON_CARD = {
    "device": "cuda",
    "machine": MachineInfo("EPYC", 8, 4, "H100"),
    "precision": "tf32",
    "threads": 4,
    "memory": Memory(2 * 10**9, 5 * 10**9),
    "learner": LearnerInfo("stacked", "cuda", 0, 1),
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
        ({}, 100, 10 + 25.2 + 72 + 8),  # resumes during the random steps
        ({}, 500, 10 + 14 + 45 + 4),
        ({}, 750, 10 + 7 + 22.5 + 2),
        ({"lr": 1e-5}, 0, 118.0),
    ],
)
def test_seconds_of_a_group(changes, step, seconds) -> None:
    cost = cost_model.cost(group(**changes), [measured()], HERE, step)
    assert cost is not None
    assert cost.seconds == pytest.approx(seconds)


def test_concurrent_evaluation_is_waited_for_once() -> None:
    beside = measured(changed=ON_CARD)
    cost = cost_model.cost(group(steps=4000), [beside], CARD)
    assert cost is not None
    assert cost.seconds == pytest.approx(10 + 112 + 342 + 8)


def test_median_of_several_runs() -> None:
    runs = [measured(seed, changed={"seconds": 118.0 + more, "startup": 10.0 + more}) for seed, more in
               enumerate((0, 2, 90))]  # fmt: skip
    cost = cost_model.cost(group(), runs, HERE)
    assert cost is not None
    assert (cost.seconds, cost.basis) == (pytest.approx(120.0), "3 earlier runs")


def test_total_time_is_known_if_that_of_each_group_is() -> None:
    costs = [Cost(seconds, 1, None, "") for seconds in (1, 1, 1, 5)]
    assert cost_model.total_seconds(costs, 2) == 6
    assert cost_model.total_seconds([], 2) == 0
    assert cost_model.total_seconds([*costs, None], 2) is None


# Which runs are used


@pytest.mark.parametrize(
    ("asked", "changed", "basis"),
    [
        ({}, {}, "1 earlier run"),
        ({"lr": 1e-5}, {}, "1 earlier run, with other settings"),
        ({"random_steps": 300, "replay_size": 50, "steps": 500}, {}, "1 earlier run"),
        ({}, {"threads": 1}, "1 earlier run, with 1 thread"),
        ({}, {"threads": 8, "machine": MachineInfo("Xeon", 2, 2)}, "1 earlier run, on Xeon, with 8 threads"),
        ({}, {"per_gpu": 3}, "1 earlier run, 3 per GPU"),
    ],
)
def test_basis_names_what_differs(asked, changed, basis) -> None:
    cost = cost_model.cost(group(**asked), [measured(changed=changed)], HERE)
    assert cost is not None
    assert cost.basis == basis
    calibrated = cost_model.cost(group(**asked), [measured(changed=changed, calibration=True)], HERE)
    assert calibrated is not None
    assert calibrated.basis == basis.replace("1 earlier run", "calibration")


@pytest.mark.parametrize(
    ("asked", "seeds", "changed"),
    [
        ({"hidden": 16}, 1, {}),  # another size
        ({}, 2, {}),  # another number of seeds together
        ({}, 1, ON_CARD),  # another device
        ({"random_steps": 200}, 1, {"protocol": ProtocolInfo(200, 250, 2)}),  # it never learned
    ],
)
def test_runs_that_are_not_comparable(asked, seeds, changed) -> None:
    assert cost_model.cost(group(seeds, **asked), [measured(changed=changed)], HERE) is None


def test_other_task_or_algorithm_is_not_comparable() -> None:
    run = record()
    for changed in ({"task": replace(run.task, name="Acrobot-v1")}, {"algo": replace(run.algo, name="sac")}):
        assert cost_model.cost(group(), [measured(changed=changed)], HERE) is None


def test_nearest_run_is_used() -> None:
    own = measured(changed={"threads": 1, "startup": 11.0, "seconds": 119.0})
    runs = [measured(lr=1e-5), own, measured(changed={"machine": MachineInfo("Xeon", 2, 2)})]
    cost = cost_model.cost(group(), runs, HERE)
    assert cost is not None
    assert (cost.seconds, cost.basis) == (pytest.approx(119.0), "1 earlier run, with 1 thread")


def test_each_group_has_its_own_cost() -> None:
    groups = [group(), group(steps=4000), group(hidden=16), group()]
    costs = cost_model.costs(groups, [measured()], HERE, [0, 0, 0, 500])
    assert [cost and cost.seconds for cost in costs] == [
        pytest.approx(118),
        pytest.approx(496),
        None,
        pytest.approx(73),
    ]
    assert cost_model.one_of_each(groups) == groups[:3]


def test_measurements_are_of_finished_runs(tmp_path: Path) -> None:
    runs = [record(0), record(1, changed={"status": "failed"}), record(2, changed={"memory": None})]  # an early version
    for run in runs:
        records.write_run(tmp_path / cell(run.seed).path, run)
    folder = tmp_path / cell(3).path
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{")
    other = make_cell("sac", suite=SUITE)
    records.write_run(tmp_path / other.path, replace(record(), algo=RunRecord.of(other, [0]).algo))
    assert [found.record.seed for found in cost_model.measurements(tmp_path, [cell(9)])] == [0]
    assert cost_model.measurements(tmp_path / "none", [cell(9)]) == []


def test_group_resumes_from_a_step_that_all_cells_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = {tmp_path / cell(0).path: [250, 500], tmp_path / cell(1).path: [250]}
    monkeypatch.setattr(checkpoint, "steps", lambda folder: saved.get(folder, []))
    assert cost_model.resume_step(tmp_path, group(1)) == 500
    assert cost_model.resume_step(tmp_path, group(2)) == 250
    assert cost_model.resume_step(tmp_path, group(3)) == 0


# Memory


def replay(steps: int = 1000, seeds: int = 1, **changes) -> int:
    return Replay.bytes_needed(range(seeds), 3, 1, cell(**changes).variant.config, steps)


@pytest.mark.parametrize("changes", [{}, {"replay_size": 10**6, "steps": 10**5}, {"steps": 300}])
def test_memory_of_the_replay_is_computed(changes) -> None:
    cost = cost_model.cost(group(**changes), [measured()], HERE)
    more = replay(**changes) - replay()
    assert cost is not None
    assert (cost.host_bytes, cost.gpu_bytes) == (10**9 + more, None)
    assert (more > 0) == ("replay_size" in changes)


@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_replay_counts_where_it_is_held(place: str) -> None:
    changed = {**ON_CARD, "learner": LearnerInfo("stacked", place, 0, 1)}
    cost = cost_model.cost(group(3, replay_size=10**6, steps=10**6), [measured(seeds=3, changed=changed)], CARD)
    more = replay(10**6, 3, replay_size=10**6) - replay(seeds=3)
    assert cost is not None
    assert cost.host_bytes == 2 * 10**9 + (more if place == "cpu" else 0)
    assert cost.gpu_bytes == 5 * 10**9 + (more if place == "cuda" else 0)


def test_memory_of_the_largest_groups_together() -> None:
    costs = [Cost(1, size, 10 * size, "") for size in (1, 5, 2, 4)]
    assert cost_model.host_bytes(costs, 1) == 5
    assert cost_model.host_bytes(costs, 3) == 11
    assert cost_model.host_bytes(costs, 9) == 12
    assert cost_model.gpu_bytes(costs, 2) == 90
    assert cost_model.host_bytes([*costs, None], 1) is None
    assert cost_model.gpu_bytes([Cost(1, 1, None, "")], 1) is None


# Groups a GPU


@pytest.mark.parametrize(
    ("gpus", "card", "main", "cores", "expected", "why"),
    [
        (2, 80, 1000, 64, 6, "10.0 GiB of a GPU's 80.0 GiB"),  # 68 GiB hold six
        (2, 80, 100, 64, 2, "20.0 GiB of 100.0 GiB main memory"),  # 85 GiB hold four, two a GPU
        (2, 80, 1000, 6, 3, "6 cores"),
        (2, 8, 1000, 64, 1, "of a GPU's 8.0 GiB"),  # never none
        (2, 80, 10, 64, 1, "main memory"),
        (2, None, 1000, 64, 1, "the driver does not report"),
    ],
)
def test_groups_per_gpu_follow_from_memory_and_cores(gpus, card, main, cores, expected, why) -> None:
    costs = [Cost(1, 20 * 2**30, 5 * 2**30, ""), Cost(1, 2**30, 10 * 2**30, "")]
    number, shown = cost_model.per_gpu(costs, gpus, card and card * 2**30, main * 2**30, cores)
    assert number == expected
    assert why in shown


@pytest.mark.parametrize("unknown", [None, Cost(1, 1, None, ""), Cost(1, None, 1, "")])
def test_one_group_per_gpu_if_nothing_is_known(unknown) -> None:
    number, why = cost_model.per_gpu([Cost(1, 1, 1, ""), unknown], 1, 2**40, 2**40, 64)
    assert number == 1
    assert "1 of 2" in why
    assert "--calibrate" in why


# In words


def test_conditions_of_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "cpu_model", lambda: "EPYC")
    assert Conditions.of(Slots(4, "cpu", 2)) == HERE
    monkeypatch.setattr(system, "gpu_model", lambda gpu: ("H100", 1) if gpu == "GPU-1" else None)
    shared = Slots(4, "auto", 4, ("GPU-1",), "tf32", per_gpu=2)
    assert Conditions.of(shared) == dataclasses.replace(CARD, per_gpu=2)
    assert Conditions.of(dataclasses.replace(shared, gpus=("MIG-1",))).processor == ""


@pytest.mark.parametrize(("seconds", "shown"), [(4.4, "4 s"), (90, "1.5 min"), (3600, "1.0 h"), (10**6, "277.8 h")])
def test_durations_for_people(seconds, shown) -> None:
    assert cost_model.hours(seconds) == shown
