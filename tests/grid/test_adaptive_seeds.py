"""Seeds added until a comparison is decided: which cells are trained, when it ends, and what it says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from fakes import make_cell, make_suite
from msgspec.structs import replace

from flowbench.common.errors import UsageError
from flowbench.grid import adaptive_seeds
from flowbench.plan.options import RunOptions
from flowbench.store import lock, records
from flowbench.store.records import RunRecord

MOST = 15  # looks at 5, 10 and 15
OPTIONS = RunOptions(auto=MOST)
SUITE = make_suite(tasks=("Pendulum-v1", "MountainCarContinuous-v0"), steps=40, every=20)


def cells_of(*names: str):
    return [
        make_cell(name, suite=SUITE, task=task, seed=seed)
        for seed in range(MOST)
        for task in SUITE.tasks
        for name in names
    ]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch):
    """Stands in for a grid's training: returns around a mean of each algorithm's own. It gives what it was given."""
    given = []
    means = {"td3": -200.0, "sac": -210.0, "qvpo": -1000.0}

    def run(cells, root, options, cluster):
        given.append((list(cells), options))
        if options.dry_run:
            return 0
        for cell in cells:
            folder = root / cell.path
            if records.is_done(folder) or cell.path in train.leave:
                continue
            random = np.random.default_rng([cell.seed, *map(ord, cell.task.name + cell.variant.label)])
            mean = means[cell.variant.label] + 100 * random.normal()
            records.write_run(folder, replace(RunRecord.of(cell, [cell.seed]), status="done", auto=options.auto))
            (folder / "evals.csv").write_text(f"step,mean\n20,-1500\n40,{mean}\n")
        return train.status

    def train():
        return given

    train.status, train.leave = 0, set()
    monkeypatch.setattr(adaptive_seeds, "run_grid", run)
    return train


def seeds(cells) -> dict[str, list[int]]:
    return {
        name: sorted({c.seed for c in cells if c.variant.label == name}) for name in {c.variant.label for c in cells}
    }


def test_it_ends_with_the_look_that_decides(train, tmp_path, capsys) -> None:
    assert adaptive_seeds.run(cells_of("td3", "qvpo"), tmp_path, OPTIONS) == 0
    (first,) = train()
    assert seeds(first[0]) == {"td3": [0, 1, 2, 3, 4], "qvpo": [0, 1, 2, 3, 4]}
    assert first[1].auto == MOST
    out = " ".join(capsys.readouterr().out.split())
    assert "Look 1 of 3, 5 seeds" in out
    assert "td3 is better than qvpo with 5 seeds of each (p" in out
    assert "the probability of any false verdict is at most 5 % over 3 planned looks" in out


def test_what_is_decided_gets_no_more_seeds(train, tmp_path, capsys) -> None:
    assert adaptive_seeds.run(cells_of("td3", "sac", "qvpo"), tmp_path, OPTIONS) == 0
    trained = [seeds(cells) for cells, _ in train()]
    assert trained[0].keys() == {"td3", "sac", "qvpo"}
    assert trained[1:] == [
        {"td3": [*range(5, 10)], "sac": [*range(5, 10)]},
        {"td3": [*range(10, 15)], "sac": [*range(10, 15)]},
    ]
    out = " ".join(capsys.readouterr().out.split())
    assert "sac and td3: undecided with 15 seeds of each" in out
    assert "and 3 pairs" in out


def test_the_same_command_says_the_same(train, tmp_path, capsys) -> None:
    adaptive_seeds.run(cells_of("td3", "sac", "qvpo"), tmp_path, OPTIONS)
    before = capsys.readouterr().out
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.csv")}
    assert adaptive_seeds.run(cells_of("td3", "sac", "qvpo"), tmp_path, OPTIONS) == 0
    assert capsys.readouterr().out == before
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.csv")} == files


def test_runs_of_another_config_or_task_are_none_of_it(train, tmp_path) -> None:
    adaptive_seeds.run(cells_of("td3", "qvpo"), tmp_path, OPTIONS)
    other = make_cell("td3", suite=SUITE, seed=0, hidden=16)
    records.write_run(tmp_path / other.path, replace(RunRecord.of(other, [0]), status="done"))
    (tmp_path / other.path / "evals.csv").write_text("step,mean\n40,-1500\n")
    assert adaptive_seeds.run(cells_of("td3", "qvpo"), tmp_path, OPTIONS) == 0


def test_a_failure_ends_it_before_its_look(train, tmp_path, capsys) -> None:
    train.status = 1
    cells = cells_of("td3", "qvpo")
    failed = replace(RunRecord.of(cells[3], [cells[3].seed]), status="failed", error="ValueError: boom")
    records.write_run(tmp_path / cells[3].path, failed)
    train.leave.add(cells[3].path)
    assert adaptive_seeds.run(cells, tmp_path, OPTIONS) == 1
    assert len(train()) == 1
    said = capsys.readouterr()
    assert "Look" not in said.out
    assert said.err == f"flowbench: no look at 5 seeds yet: {cells[3]}: failed, no evaluation\n"


@pytest.mark.parametrize("lost", ["td3", "Pendulum-v1"])
def test_an_algorithm_or_task_of_which_nothing_can_be_read_is_not_left_out_of_the_test(train, tmp_path, capsys, lost):
    cells = cells_of("td3", "qvpo")
    train.leave |= {cell.path for cell in cells if lost in (cell.variant.label, cell.task.name)}
    assert adaptive_seeds.run(cells, tmp_path, OPTIONS) == 1
    said = capsys.readouterr()
    assert "Look" not in said.out
    lines = said.err.splitlines()
    assert len(lines) == 6
    first = next(cell for cell in cells if cell.path in train.leave)
    assert lines[0] == f"flowbench: no look at 5 seeds yet: {first}: no readable record"
    assert lines[-1] == "flowbench: and 5 more"


def test_what_the_runs_differ_in_is_said_beside_the_verdict(train, tmp_path, capsys) -> None:
    adaptive_seeds.run(cells_of("td3", "qvpo"), tmp_path, OPTIONS)
    assert "Warnings" not in capsys.readouterr().out
    for folder in records.folders(tmp_path):
        record = records.read_run(folder)
        version = "3.1" if record.algo.name == "td3" else "3.3"
        records.write_run(folder, replace(record, versions={"mujoco": version}))
    adaptive_seeds.run(cells_of("td3", "qvpo"), tmp_path, OPTIONS)
    out = " ".join(capsys.readouterr().out.split())
    assert "the runs differ in their version of mujoco: 3.1 (td3) | 3.3 (qvpo)" in out


def test_one_configuration_under_two_labels_is_two_runs(train, tmp_path, capsys) -> None:
    adaptive_seeds.run(cells_of("td3", "qvpo"), tmp_path, OPTIONS)
    before = capsys.readouterr().out
    other = make_cell("td3", suite=SUITE, seed=0, label="td3[hidden=8]")
    records.write_run(tmp_path / other.path, replace(RunRecord.of(other, [0]), status="done"))
    (tmp_path / other.path / "evals.csv").write_text("step,mean\n40,-1500\n")
    assert adaptive_seeds.run(cells_of("td3", "qvpo"), tmp_path, OPTIONS) == 0
    assert capsys.readouterr().out == before


@pytest.mark.parametrize(
    ("names", "most", "options", "said"),
    [
        (("td3",), 20, {}, r"auto:20 compares algorithms.*not td3 alone"),
        (("td3", "sac"), 20, {"shard": (1, 2)}, r"--shard"),
        (("td3", "sac"), 2, {}, r"auto:2 can decide nothing: .* at least 3 seeds of each algorithm; allow more seeds"),
    ],
)
def test_what_cannot_be_decided_is_refused(train, tmp_path, names, most: int, options, said: str) -> None:
    cells = [cell for cell in cells_of(*names) if cell.seed < most]
    with pytest.raises(UsageError, match=said):
        adaptive_seeds.run(cells, tmp_path, RunOptions(auto=most, **options))
    assert not train()


def test_a_plan_without_a_possible_verdict_is_refused(train, tmp_path) -> None:
    cells = [cell for cell in cells_of("td3", "sac", "qvpo") if cell.seed < 3 and cell.task == SUITE.tasks[0]]
    with pytest.raises(UsageError, match=r"auto:3 can decide nothing.*p would be 0\.300 with 1 task and 3 pairs"):
        adaptive_seeds.run(cells, tmp_path, RunOptions(auto=3))
    assert not train()


def test_a_run_that_diverged_is_looked_at(train, tmp_path, capsys) -> None:
    train.status = 1
    cells = cells_of("td3", "qvpo")
    error = "FloatingPointError: critic/loss is nan by step 30"
    records.write_run(tmp_path / cells[3].path, replace(RunRecord.of(cells[3], [0]), status="failed", error=error))
    (tmp_path / cells[3].path / "evals.csv").write_text("step,mean\n20,-1500\n")
    train.leave.add(cells[3].path)
    assert adaptive_seeds.run(cells, tmp_path, OPTIONS) == 1
    assert "td3 is better than qvpo" in " ".join(capsys.readouterr().out.split())


def test_an_interrupt_ends_it(train, tmp_path, capsys) -> None:
    train.status = 130
    assert adaptive_seeds.run(cells_of("td3", "qvpo"), tmp_path, OPTIONS) == 130
    assert len(train()) == 1
    assert "Look" not in capsys.readouterr().out


def test_no_look_is_taken_at_runs_that_another_process_still_trains(train, tmp_path, capsys) -> None:
    cells = cells_of("td3", "qvpo")
    busy = cells[3]
    records.write_run(tmp_path / busy.path, replace(RunRecord.of(busy, [busy.seed]), status="running"))
    train.leave.add(busy.path)
    with lock.hold(tmp_path / busy.path):
        assert adaptive_seeds.run(cells, tmp_path, OPTIONS) == 1
    said = capsys.readouterr()
    assert said.err == f"flowbench: no look at 5 seeds yet: {busy}: running, no evaluation\n"
    assert "better" not in said.out


def test_a_dry_run_shows_the_most_it_can_be(train, tmp_path, capsys) -> None:
    cells = cells_of("td3", "qvpo")
    assert adaptive_seeds.run(cells, tmp_path, RunOptions(auto=MOST, dry_run=True)) == 0
    (given,) = train()
    assert Counter(given[0]) == Counter(cells)
    assert "looks at 5, 10, 15 seeds" in " ".join(capsys.readouterr().out.split())


def test_runs_of_other_code_for_a_later_look_are_named_before_anything_is_trained(tmp_path, train, capsys) -> None:
    cells = cells_of("td3", "sac")
    record = RunRecord.of(cells[-1], [cells[-1].seed])
    records.write_run(tmp_path / cells[-1].path, replace(record, status="done", algo=replace(record.algo, code="1a")))
    with pytest.raises(UsageError, match="runs of other code are neither counted nor resumed"):
        adaptive_seeds.run(cells, tmp_path, OPTIONS)
    assert capsys.readouterr().err == "flowbench: sac: its code has changed since 1 finished run was trained\n"
    assert train() == []
