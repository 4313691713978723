"""What is said of a grid before it trains, and short trainings that tell more."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fakes import TINY, make_cell, make_suite, write_algorithm, write_suite
from msgspec.structs import replace

from flowbench.common import system
from flowbench.grid import calibration, cost_model
from flowbench.grid import preview as grid_preview
from flowbench.grid.cost_model import Cost
from flowbench.grid.preview import Grid, Preview
from flowbench.plan.options import RunOptions
from flowbench.schedule.groups import Due, Group, make_groups
from flowbench.schedule.resources import Slots, share
from flowbench.store import checkpoint, records
from flowbench.store.records import LearnerInfo, MachineInfo, Memory, ProtocolInfo, RunRecord, Sizes

GIB = 2**30
SUITE = make_suite(tasks=("Pendulum-v1", "Acrobot-v1"))


def preview(costs, slots, seeds: int = 1, notes=()) -> Preview:
    groups = [
        Group(tuple(make_cell(suite=SUITE, task=task, seed=seed) for seed in range(seeds))) for task in SUITE.tasks
    ]
    cells = [cell for group in groups for cell in group.cells]
    return Preview(cells, Due(due=cells), groups, slots, costs, notes)


def test_known_costs_are_shown(monkeypatch) -> None:
    monkeypatch.setattr(system, "host_memory", lambda: 64 * GIB)
    known = [Cost(7200, 2 * GIB, None, "1 earlier run"), Cost(3600, GIB, None, "calibration")]
    assert preview(known, Slots(1, "cpu", 3)).lines() == [
        "2 cells, 2 to run, 0 done already; 1 at once on CPU, 3 threads each; about 3.0 h",
        "slots: 1 on the CPU, 3 threads each",
        "time: about 3.0 h; memory: 2.0 GiB of 64.0 GiB",
    ]
    shown = preview(known, Slots(1, "cpu", 3)).table()
    assert shown.header[-3:] == ("time", "memory", "estimated from")
    assert [row[-3:] for row in shown.rows] == [
        ("2.0 h", "2.0 GiB", "1 earlier run"),
        ("1.0 h", "1.0 GiB", "calibration"),
    ]
    alike = preview(known[:1] * 2, Slots(1, "cpu", 3))
    assert alike.table().header[-2:] == ("time", "memory")
    assert alike.lines()[-1] == "time: about 4.0 h; memory: 2.0 GiB of 64.0 GiB; estimated from 1 earlier run"


def test_unknown_costs_are_question_marks() -> None:
    half = preview([Cost(7200, 2 * GIB, None, "1 earlier run"), None], Slots(2, "cpu", 1), notes=["so it was decided"])
    assert half.lines() == [
        "2 cells, 2 to run, 0 done already; 2 at once on CPU, 1 thread each",
        "slots: 2 on the CPU, 1 thread each",
        "time: ?, no run like 1 of 2 groups has finished; --calibrate measures them",
        "so it was decided",
    ]
    assert half.table().rows[1][-3:] == ("?", "?", "?")
    nothing = preview([None, None], Slots(2, "cpu", 1))
    assert nothing.table().header[-1] == "config"  # no three columns of question marks


def test_slots_on_gpus_with_their_memory() -> None:
    shared = Slots(3, "auto", 4, ("0", "GPU-7"), "tf32", per_gpu=2)
    lines = preview([Cost(60, GIB, 9 * GIB, "calibration"), Cost(60, GIB, 3 * GIB, "calibration")], shared, 5).lines()
    assert lines == [
        "10 cells, 10 to run, 0 done already in 2 stacked groups; 3 at once on 2 GPUs, 4 threads each; about 1.0 min",
        "slots: 2 on GPU 0, 1 on GPU GPU-7; 4 threads each",
        "time: about 1.0 min; memory: 2.0 GiB + GPU 12.0 GiB; estimated from calibration",
    ]


def test_finished_grid_costs_nothing(tmp_path: Path) -> None:
    cells = [make_cell(suite=SUITE)]
    ended = grid_preview.preview(
        tmp_path, Grid(cells, Due(done=cells), []), lambda per_gpu: Slots(4, "cpu", 1), RunOptions(calibrate=True)
    )
    assert ended.lines() == ["1 cell, 0 to run, 1 done already"]
    assert ended.slots.jobs == 1
    assert ended.table().header[-1] == "config"


# The order in which groups start


def finished_run(root: Path, cell, seconds: float) -> None:
    """A finished run of a cell that took `seconds` of training."""
    wall = {"environment": 0.0, "act": 0.0, "replay": 0.0, "update": seconds, "evaluation": 0.0, "other": 0.0}
    record = RunRecord.of(cell, [cell.seed])
    record = replace(
        record, status="done", device="cpu", threads=1, precision="float32", startup=1.0, seconds=seconds + 1,
        wall={**wall, "total": seconds}, memory=Memory(GIB), sizes=Sizes(3, 1),
        learner=LearnerInfo("separate", "cpu", 0, 0), machine=MachineInfo("EPYC", 2, 2),
    )  # fmt: skip
    records.begin_run(root / cell.path, record)


def started_order(root: Path, cells) -> list[tuple[str, int]]:
    """The algorithm and seed of each cell, in the order in which they start."""
    grid = Grid(cells, Due(due=cells), make_groups(cells, 1, root))
    plan = grid_preview.preview(root, grid, lambda per_gpu: Slots(2, "cpu", 1), RunOptions())
    known = [cost.seconds for cost in plan.costs if cost]
    assert known == sorted(known, reverse=True)  # each cost is still that of its group
    return [(group.cells[0].variant.label, group.cells[0].seed) for group in plan.groups]


def test_the_longest_groups_start_first(tmp_path: Path) -> None:
    cells = [make_cell(algo, label=algo, suite=SUITE, seed=seed) for algo in ("td3", "qvpo", "sac") for seed in (0, 1)]
    given = [("td3", 0), ("td3", 1), ("qvpo", 0), ("qvpo", 1), ("sac", 0), ("sac", 1)]
    assert started_order(tmp_path, cells) == given  # nothing is known
    for algo, seconds in (("td3", 10.0), ("qvpo", 90.0)):
        finished_run(tmp_path, make_cell(algo, suite=SUITE, seed=9), seconds)
    assert started_order(tmp_path, cells) == [*given[4:], *given[2:4], *given[:2]]  # SAC is unknown: it may be long
    finished_run(tmp_path, make_cell("sac", suite=SUITE, seed=9), 30.0)
    assert started_order(tmp_path, cells) == [*given[2:4], *given[4:], *given[:2]]


def test_a_resumed_group_counts_only_what_is_left(tmp_path: Path) -> None:
    cells = [make_cell(suite=SUITE, seed=seed) for seed in range(3)]
    finished_run(tmp_path, make_cell(suite=SUITE, seed=9), 60.0)
    folder = tmp_path / cells[0].path / checkpoint.FOLDER
    folder.mkdir(parents=True)
    (folder / "30.json").touch()  # of 40 steps, the first 20 without updates
    assert started_order(tmp_path, cells) == [("td3", 1), ("td3", 2), ("td3", 0)]


@pytest.mark.slow
def test_a_grid_trains_its_longest_groups_first(flowbench, tmp_path: Path) -> None:
    results = tmp_path / "results"
    suite = write_suite(tmp_path)
    arguments = ["run", "--suite", suite, "--algo", f"td3[{TINY}],sac[{TINY}]", "--task", "pendulum-swingup",
                 "--device", "cpu", "--results", results]  # fmt: skip
    assert flowbench(*arguments, "--seeds", "1")[0] == 0
    for path in results.glob("*/*/*/*/seed-0/run.json"):
        run = records.read_run(path.parent)
        more = 1000.0 * (run.algo.name == "sac")
        records.write_run(path.parent, replace(run, startup=run.startup + more, seconds=run.seconds + more))
    _, out, _ = flowbench(*arguments, "--seeds", "2", "--jobs", "1")
    lines = [line for line in out.splitlines() if line.startswith("[")]
    assert re.findall(r"(td3|sac)", " ".join(line.split("]")[1].split("[")[0] for line in lines)) == ["sac", "td3"]


# --per-gpu auto


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "gpus", lambda: ["0", "1"])
    monkeypatch.setattr(system, "cores", lambda: 24)
    monkeypatch.setattr(system, "gpu_model", lambda gpu: ("H100", (80 if gpu == "0" else 40) * GIB))
    monkeypatch.setattr(system, "host_memory", lambda: 640 * GIB)


def slots_for_auto(root: Path, *, jobs: int | None = None) -> Preview:
    cells = [make_cell(suite=SUITE, seed=seed) for seed in range(12)]
    groups = make_groups(cells, 1)

    def sharing(per_gpu: int) -> Slots:
        return share("auto", jobs, gpus=tuple(system.gpus()), per_gpu=per_gpu)

    return grid_preview.preview(root, Grid(cells, Due(due=cells), groups), sharing, RunOptions(per_gpu="auto"))


def test_groups_per_gpu_follow_from_the_memory_of_earlier_runs(two_gpus, tmp_path, monkeypatch) -> None:
    assert slots_for_auto(tmp_path).slots == Slots(2, "auto", 12, ("0", "1"), "tf32")
    (note,) = slots_for_auto(tmp_path).notes
    assert "--per-gpu auto: 1, because the memory of 1 of 1 kinds" in note
    monkeypatch.setattr(cost_model, "cost", lambda *given: Cost(60, GIB, 10 * GIB, "1 earlier run"))
    known = slots_for_auto(tmp_path)
    assert known.slots == Slots(6, "auto", 4, ("0", "1"), "tf32", per_gpu=3)  # the smaller GPU decides
    assert known.notes == ["--per-gpu auto: 3, because a group takes 10.0 GiB of a GPU's 40.0 GiB"]
    assert slots_for_auto(tmp_path, jobs=4).slots == Slots(4, "auto", 6, ("0", "1"), "tf32", per_gpu=2)


# Short trainings


@pytest.mark.slow
def test_calibration_is_a_short_run_of_each_kind_of_group(tmp_path: Path) -> None:
    wanted = [
        make_cell(suite=make_suite(steps=10**6, every=10**5, episodes=9), seed=seed, random_steps=500, hidden=hidden)
        for hidden in (8, 6)
        for seed in (0, 1)
    ]
    groups = [Group((cell,)) for cell in wanted]
    found, failed = calibration.measure(groups, Slots(2, "cpu", 1))
    assert failed == []
    assert [each.record.config["hidden"] for each in found] == [8, 6]
    for each in found:
        assert each.record.protocol == ProtocolInfo(300, 300, 1)
        assert each.record.config["random_steps"] == 60
        assert each.memory.host_bytes > 2**26
    cost = cost_model.cost(groups[0], found, cost_model.Conditions.of(Slots(2, "cpu", 1)))
    assert cost is not None
    assert cost.basis == "calibration"
    assert cost.seconds > 100 * found[0].wall["update"]


@pytest.mark.slow
def test_failed_calibration_is_named(tmp_path: Path) -> None:
    broken = write_algorithm(tmp_path, "Broken", "raise RuntimeError('boom')")
    group = Group((make_cell("Broken", target=broken, suite=make_suite()),))
    found, (failed,) = calibration.measure([group], Slots(1, "cpu", 1))
    assert found == []
    assert "boom" in failed.error


@pytest.mark.slow
def test_dry_run_estimates_after_calibration_and_after_a_run(flowbench, tmp_path: Path) -> None:
    arguments = ["run", "--suite", write_suite(tmp_path), "--algo", f"td3[{TINY}]", "--seeds", "1", "--device", "cpu",
                 "--task", "pendulum-swingup", "--results", tmp_path / "results"]  # fmt: skip
    _, out, _ = flowbench(*arguments, "--dry-run")
    assert "time: ?, no run like 1 of 1 groups" in out
    status, out, _ = flowbench(*arguments, "--dry-run", "--calibrate")
    assert status == 0
    assert re.search(r"1 at once on CPU, 1 thread each; about \d", out)
    assert "calibration" in out
    assert not (tmp_path / "results").exists()
    status, out, _ = flowbench(*arguments, "--threads", "1")
    assert "about" not in out
    (record,) = (tmp_path / "results").glob("*/*/*/*/seed-0/run.json")
    run = json.loads(record.read_text())
    assert (run["threads"], run["per_gpu"], run["sizes"]) == (1, 1, {"obs": 3, "act": 1})
    assert run["memory"]["gpu_bytes"] is None
    assert run["memory"]["host_bytes"] > 2**26
    assert 0 < run["startup"] < run["seconds"]
    _, out, _ = flowbench(*arguments, "--seeds", "3", "--dry-run")
    assert "1 earlier run" in out
    assert re.search(r"time: about \d.*; memory: \d\.\d GiB of", out)


def test_interrupted_calibration_ends_the_command(flowbench, tmp_path, monkeypatch) -> None:
    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(calibration, "measure", interrupted)
    arguments = ["run", "--suite", write_suite(tmp_path), "--algo", "td3", "--results", tmp_path / "results"]
    assert flowbench(*arguments, "--calibrate")[0] == 130
    assert list(records.folders(tmp_path / "results")) == []
