"""What the runner finds in the folders of its cells, and what it does with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import ToyConfig, make_cell, put_run
from scripts import groups, run

from flowbench.schedule.groups import Group, enqueue
from flowbench.store import records
from flowbench.store.load import load_results


def test_finished_run_is_renamed_and_not_overwritten(tmp_path: Path, script) -> None:
    folder = put_run(tmp_path, make_cell())
    (folder / "evals.csv").write_text("step,mean\n")
    for count in (1, 2):
        run(tmp_path, groups(1), force=True)
        put_run(tmp_path, make_cell())
        aside = sorted(path for path in folder.parent.iterdir() if path != folder)
        assert len(aside) == count
        assert all(path.name.endswith("-seed-0") and path.name.startswith("replaced-") for path in aside)
    assert (aside[0] / "evals.csv").read_text() == "step,mean\n"
    assert records.read_run(aside[0]).status == "done"
    assert load_results(tmp_path).runs["folder"].tolist() == [str(folder)]


@pytest.mark.parametrize("written", ["{", '{"schema": 2, "status": "done"}'])
def test_folder_with_an_unreadable_record_is_renamed(tmp_path: Path, script, written: str) -> None:
    folder = put_run(tmp_path, make_cell())
    (folder / "run.json").write_text(written)
    (folder / "evals.csv").write_text("step,mean\n20,1\n")
    run(tmp_path, groups(1))
    (aside,) = folder.parent.glob("replaced-*-seed-0")
    assert (aside / "run.json").read_text() == written
    assert (aside / "evals.csv").read_text() == "step,mean\n20,1\n"
    assert records.read_run(folder).status == "done"


def test_rows_of_an_earlier_attempt_are_removed(tmp_path: Path, script) -> None:
    folder = put_run(tmp_path, make_cell(), "stopped")
    for name in ("evals.csv", "train.csv"):
        (folder / name).write_text("step,mean\n20,-100\n40,-50\n")
    script.usual = "sys.exit(1)"  # before it has rows of its own
    run(tmp_path, groups(1))
    assert records.read_run(folder).status == "failed"
    assert load_results(tmp_path).evals.empty


def test_enqueue_leaves_existing_records(tmp_path: Path) -> None:
    folder = put_run(tmp_path, make_cell(seed=0), "failed")
    before = (folder / "run.json").read_bytes()
    enqueue(tmp_path, [make_cell(seed=seed) for seed in range(3)])
    assert (folder / "run.json").read_bytes() == before
    assert load_results(tmp_path).runs["status"].tolist() == ["failed", "queued", "queued"]


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_unfinished_run_is_started_again_in_its_folder(tmp_path: Path, script, status: str) -> None:
    folder = put_run(tmp_path, make_cell(), status)
    run(tmp_path, groups(1))
    assert [path.name for path in folder.parent.iterdir()] == ["seed-0"]
    assert records.read_run(folder).status == "done"


def test_folder_that_cannot_be_written_fails_only_its_cell(tmp_path: Path, script) -> None:
    blocked = tmp_path / make_cell(seed=0).path
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where the cell's folder should be")
    _, outcomes = run(tmp_path, groups(2))
    assert [outcomes[seed].status for seed in range(2)] == ["failed", "done"]
    assert "Error" in outcomes[0].error


def test_config_that_cannot_be_written_fails_only_its_cell(tmp_path: Path, script) -> None:
    odd = make_cell(seed=0, config=ToyConfig(lr=float("nan")))  # an algorithm that does not check its own
    _, outcomes = run(tmp_path, [Group((odd,)), *groups(2)[1:]])
    assert [outcomes[seed].status for seed in range(2)] == ["failed", "done"]
    assert "nan" in outcomes[0].error


def test_missing_record_fails_only_its_cell(tmp_path: Path, script) -> None:
    script.codes = {0: "os.remove(sys.argv[1] + '/run.json'); sys.exit(1)"}
    _, outcomes = run(tmp_path, groups(2))
    assert [outcomes[seed].status for seed in range(2)] == ["failed", "done"]
