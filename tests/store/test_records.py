"""The record of a run: what is written is read back, and damaged records are reported."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from fakes import make_cell, make_suite, put_run
from msgspec.structs import replace

import algos
from flowbench.common.errors import UsageError
from flowbench.store import lock, records
from flowbench.store.records import (
    AlgoInfo,
    LearnerInfo,
    MachineInfo,
    Memory,
    ProtocolInfo,
    RunRecord,
    Status,
    SuiteInfo,
    TaskInfo,
)


def change_task(folder: Path, key: str, value: object) -> None:
    run = json.loads((folder / "run.json").read_text())
    run["task"][key] = value
    (folder / "run.json").write_text(json.dumps(run))


def test_record_describes_its_cell() -> None:
    cell = make_cell(seed=3, suite=make_suite(note="beware", comparable=False, tasks=("Pendulum-v1", "Other-v0")))
    run = RunRecord.of(cell, [3, 4])
    assert run.schema == 1
    assert run.status == "queued"
    assert run.suite == SuiteInfo("mini", "Mini", False, "beware", tasks=2, steps=40)
    assert run.task == TaskInfo("Pendulum-v1", "gymnasium", 1, low=-1500.0, high=0.0)
    assert run.algo == AlgoInfo("td3", "td3", "algos.td3:TD3", None, {}, algos.find("td3").code())
    assert (run.seed, run.group) == (3, [3, 4])
    assert run.protocol == ProtocolInfo(40, 20, 1)
    assert type(cell.variant.config)(**run.config) == cell.variant.config
    assert run.config_id == cell.variant.config_id


def test_written_record_is_read_back(tmp_path: Path) -> None:
    run = RunRecord.of(make_cell(), [0])
    folder = tmp_path / "a" / "b"
    records.write_run(folder, run)
    assert records.read_run(folder) == run
    assert [path.name for path in folder.iterdir()] == ["run.json"]


@pytest.mark.parametrize("value", [math.nan, object()])
def test_failed_write_leaves_the_old_record(tmp_path: Path, value: object) -> None:
    run = RunRecord.of(make_cell(), [0])
    records.write_run(tmp_path, run)
    with pytest.raises((ValueError, TypeError)):
        records.write_run(tmp_path, replace(run, config={"lr": value}))
    assert records.read_run(tmp_path) == run


BASIC_KEYS = ["schema", "status", "suite", "task", "algo", "config_id", "config", "protocol", "seed", "group"]


@pytest.mark.parametrize(
    ("known", "nulls"),
    [
        ({}, set()),
        ({"device": "cpu"}, {"timeout", "auto"}),
        ({"device": "cpu", "timeout": 5.0}, {"auto"}),
        ({"started": "now"}, {"ended", "error"}),
        ({"ended": "now"}, {"error"}),  # interrupted before it was started
        ({"learner": LearnerInfo("separate", "cpu", 0, 0)}, {"success_from"}),
        ({"memory": Memory(), "machine": MachineInfo("EPYC", 2, 1)}, set()),
    ],
)
def test_unknown_values_are_null_or_absent_on_disk(known: dict[str, object], nulls: set[str]) -> None:
    """As every version has written them: a key of the scheduler or the worker appears with the others it writes."""
    values = replace(RunRecord.of(make_cell(), [0]), **known).to_builtins()
    assert values.keys() == {*BASIC_KEYS, *known, *nulls}
    assert {key for key, value in values.items() if value is None} == nulls
    assert values["algo"]["sha256"] is None
    if "memory" in known:
        assert values["memory"] == {"host_bytes": None, "gpu_bytes": None}
        assert values["machine"]["gpu"] is None


def test_record_cut_at_any_byte_is_not_a_run(tmp_path: Path) -> None:
    folder = put_run(tmp_path, make_cell())
    whole = (folder / "run.json").read_bytes()
    for length in range(len(whole) - 2):
        (folder / "run.json").write_bytes(whole[:length])
        with pytest.raises(records.NotARun) as caught:
            records.read_run(folder)
        assert str(folder / "run.json") in str(caught.value)


# What a folder's run has come to


@pytest.mark.parametrize("recorded", ["done", "failed", "stopped"])
def test_status_of_a_run_that_ended_is_the_recorded_one(tmp_path: Path, recorded: Status) -> None:
    assert records.status(put_run(tmp_path, make_cell(), recorded)) == recorded


@pytest.mark.parametrize(("recorded", "otherwise"), [("running", "stopped"), ("queued", "queued")])
def test_status_of_a_run_in_progress_follows_its_lock(tmp_path: Path, recorded: Status, otherwise: str) -> None:
    folder = put_run(tmp_path, make_cell(), recorded)
    assert records.status(folder) == otherwise
    assert not (folder / "run.lock").exists()
    (folder / "run.lock").touch()  # left behind by a killed worker
    assert records.status(folder) == otherwise
    with lock.hold(folder):
        assert records.status(folder) == "running"
    assert records.status(folder) == otherwise


def test_folder_without_record_is_missing(tmp_path: Path) -> None:
    assert records.status(tmp_path) == "missing"
    assert records.status(tmp_path / "none") == "missing"
    (tmp_path / "log.txt").touch()
    assert records.status(tmp_path) == "missing"


def test_unknown_status_is_not_a_run(tmp_path: Path) -> None:
    folder = put_run(tmp_path, make_cell())
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, "status": "finished"}))
    with pytest.raises(records.NotARun, match=r"run\.json: Invalid enum value 'finished' - at `\$\.status`"):
        records.status(folder)


# The same task


@pytest.mark.parametrize(("key", "value"), [("source", "dm_control"), ("action_repeat", 2)])
def test_task_that_changed_under_its_name_is_rejected(tmp_path: Path, key: str, value: object) -> None:
    cell = make_cell()
    records.check_same_task(tmp_path, cell)
    folder = put_run(tmp_path, make_cell(seed=7))
    records.check_same_task(tmp_path, cell)
    change_task(folder, key, value)
    with pytest.raises(UsageError) as caught:
        records.check_same_task(tmp_path, cell)
    for word in ("'mini'", "'Pendulum-v1'", key, repr(value), str(folder)):
        assert word in str(caught.value)


def test_task_of_another_suite_may_differ(tmp_path: Path) -> None:
    folder = put_run(tmp_path, make_cell(suite=make_suite("other")))
    change_task(folder, "action_repeat", 2)
    records.check_same_task(tmp_path, make_cell())


def test_unreadable_record_is_ignored_in_the_check_of_tasks(tmp_path: Path) -> None:
    (put_run(tmp_path, make_cell()) / "run.json").write_text("noise")
    records.check_same_task(tmp_path, make_cell())
