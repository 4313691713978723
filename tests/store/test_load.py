"""The results folder as two tables; what does not belong there, or is damaged, does not affect the rest."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import pytest
from fakes import make_cell, make_suite, put_run

from flowbench.common.errors import UsageError
from flowbench.plan.cells import Cell
from flowbench.store.load import EVAL_KEYS, EVAL_NUMBERS, RUN_COLUMNS, load_results
from flowbench.store.records import Resumed, RunRecord, Segment, Status


def put(root: Path, cell: Cell, status: Status = "done", evals: str | bytes | None = "step,mean\n20,-1500\n40,-750\n",
        **changes: object) -> Path:  # fmt: skip
    """A run as a worker leaves it."""
    folder = put_run(root, cell, status, **changes)
    if evals is not None:
        (folder / "evals.csv").write_bytes(evals if isinstance(evals, bytes) else evals.encode())
    return folder


def break_record(folder: Path, data: str | bytes) -> None:
    (folder / "run.json").write_bytes(data if isinstance(data, bytes) else data.encode())


NOISE = {
    "empty": "",
    "a list": "[]",
    "a list of runs": '[{"schema": 1}]',
    "null": "null",
    "a number": "3",
    "text": '"schema"',
    "no schema": "{}",
    "schema of tomorrow": '{"schema": 2}',
    "schema as text": '{"schema": "1"}',
    "nothing but a schema": '{"schema": 1}',
    "rooms of the wrong kind": '{"schema": 1, "suite": [], "task": 3, "algo": null, "protocol": "x"}',
    "not text": b"\xff\xfe\x00\x01",
    "zeros": b"\x00" * 4096,
    "html": "<html></html>",
    "two documents": '{"schema": 1}{"schema": 1}',
    "endless nesting": "[" * 100_000,
    "an endless number": '{"schema": ' + "1" * 5000 + "}",
}


def keys_of_a_record() -> list[tuple[str, ...]]:
    run = RunRecord.of(make_cell(), [0]).to_builtins()
    optional = {("algo", key) for key in ("sha256", "overrides", "code")}
    optional |= {("group",), ("suite",), ("task",), ("algo",), ("protocol",)}
    nested = [(room, key) for room in ("suite", "task", "algo", "protocol") for key in run[room]]
    return [path for path in [*((key,) for key in run), *nested] if path not in optional]


def change_record(folder: Path, path: tuple[str, ...], *value: object) -> None:
    """Set a key of a record, or without a value delete it."""
    run = json.loads((folder / "run.json").read_text())
    *rooms, last = path
    at = run
    for room in rooms:
        at = at[room]
    if value:
        at[last] = value[0]
    else:
        del at[last]
    break_record(folder, json.dumps(run))


@pytest.mark.parametrize("path", keys_of_a_record(), ids=".".join)
def test_record_without_a_key_or_with_a_wrong_value_does_not_affect_others(
    tmp_path: Path, path: tuple[str, ...]
) -> None:
    good = put(tmp_path, make_cell(seed=0))
    for seed, value in enumerate([(), (None,), ([],), ({},), ("word",)], 1):
        change_record(put(tmp_path, make_cell(seed=seed)), path, *value)
    found = load_results(tmp_path)
    assert str(good) in found.runs["folder"].tolist()
    assert found.evals[found.evals["seed"] == 0]["score"].tolist() == [0.0, 0.5]
    without = tmp_path / make_cell(seed=1).path
    assert sum(problem.startswith(f"{without / 'run.json'}: ") for problem in found.problems) == 1


def test_runs_and_evaluations_are_read_as_tables(tmp_path: Path) -> None:
    put(tmp_path, make_cell(seed=0))
    put(tmp_path, make_cell("sac", seed=2), "failed", evals=None, error="boom")
    found = load_results(tmp_path)
    assert found.problems == []
    assert list(found.runs.columns) == RUN_COLUMNS
    assert list(found.evals.columns) == [*EVAL_KEYS, *EVAL_NUMBERS]
    runs = found.runs.set_index("algo")
    assert runs.loc["td3", "status"] == "done"
    assert runs.loc["sac", ["status", "seed", "error"]].tolist() == ["failed", 2, "boom"]
    assert runs.loc["td3", ["low", "high", "steps", "every", "tasks"]].tolist() == [-1500.0, 0.0, 40, 20, 1]
    assert found.evals[["algo", "seed", "step", "mean", "score"]].values.tolist() == [
        ["td3", 0, 20, -1500.0, 0.0],
        ["td3", 0, 40, -750.0, 0.5],
    ]
    assert found.evals["seconds"].isna().all()  # the file has no such column


def test_success_is_read_if_it_was_counted(tmp_path: Path) -> None:
    put(tmp_path, make_cell(seed=0), evals="step,mean,success\n20,-1500,0.25\n40,-700,\n")
    put(tmp_path, make_cell(seed=1), evals="step,mean\n20,-1500\n")
    evals = load_results(tmp_path).evals
    assert evals["success"].fillna(-1).tolist() == [0.25, -1, -1]


def test_conditions_of_a_comparison_are_columns(tmp_path: Path) -> None:
    put(tmp_path, make_cell(seed=0), evals="step,mean,seconds\n20,-1500,7.5\n", versions={"mujoco": "3.3.0"})
    put(tmp_path, make_cell(seed=1), "queued")
    found = load_results(tmp_path)
    assert found.runs["mujoco"].tolist() == ["3.3.0", ""]
    assert found.runs["dm_control"].tolist() == ["", ""]
    protocol = make_cell().variant.protocol
    assert found.runs["episodes"].tolist() == [protocol.episodes] * 2
    assert found.runs["action_repeat"].tolist() == [make_cell().task.action_repeat] * 2
    assert found.evals["seconds"].dropna().tolist() == [7.5]


def test_an_empty_folder_gives_empty_tables(tmp_path: Path) -> None:
    found = load_results(tmp_path)
    assert found.runs.empty
    assert list(found.runs.columns) == RUN_COLUMNS
    assert list(found.evals.columns) == [*EVAL_KEYS, *EVAL_NUMBERS]
    with pytest.raises(UsageError, match="no results folder"):
        load_results(tmp_path / "none")


def test_suites_and_algorithms_are_selected(tmp_path: Path) -> None:
    put(tmp_path, make_cell())
    put(tmp_path, make_cell(label="td3[hidden=9]", hidden=9))
    put(tmp_path, make_cell("sac"))
    put(tmp_path, make_cell(suite=make_suite("other")))
    assert len(load_results(tmp_path).runs) == 4
    assert len(load_results(tmp_path, ["other"]).runs) == 1
    assert len(load_results(tmp_path, ["mini"], ["td3"]).runs) == 2
    assert load_results(tmp_path, [], ["td3[hidden=9]"]).runs["algo"].tolist() == ["td3[hidden=9]"]
    assert len(load_results(tmp_path, ["mini", "other"], ["sac", "td3"]).runs) == 4
    for chosen in ((["mni"], []), ([], ["sacc"]), (["other"], ["sac"])):
        with pytest.raises(UsageError, match=f"'{(chosen[1] or chosen[0])[-1]}'"):
            load_results(tmp_path, *chosen)


@pytest.mark.parametrize(
    "evals",
    [b"", b"\n", b"\x00\x00\n", b"\xff\xfe\n", b"a,b\n1,2\n", b"step\n1\n", b"mean,step\n", b"step,step\n1,2\n",
     b"step,mean,mean\n20,1,2\n", b"step,mean\ninf,1\n", b"step,mean\nword,word\n", b"step,mean\n1e400,1\n"],
)  # fmt: skip
def test_damaged_evaluations_do_not_affect_other_runs(tmp_path: Path, evals: bytes) -> None:
    put(tmp_path, make_cell(seed=0))
    put(tmp_path, make_cell(seed=1), evals=evals)
    found = load_results(tmp_path)
    assert found.evals[found.evals["seed"] == 0]["score"].tolist() == [0.0, 0.5]
    assert len(found.runs) == 2


def test_later_of_two_rows_of_one_step_counts(tmp_path: Path) -> None:
    put(tmp_path, make_cell(), evals="step,mean\n40,-1500\n20,-750\n40,0\n")
    found = load_results(tmp_path)
    assert found.evals[["step", "mean"]].values.tolist() == [[20, -750.0], [40, 0.0]]


@pytest.mark.parametrize("step", ["20.5", "-20", "inf", "1e300", "18014398509481984"])
def test_row_with_an_invalid_step_is_left_out_and_reported(tmp_path: Path, step: str) -> None:
    folder = put(tmp_path, make_cell(), evals=f"step,mean\n{step},-1500\n40,-750\n")
    found = load_results(tmp_path)
    assert found.evals["step"].tolist() == [40]
    (problem,) = found.problems
    assert problem.startswith(f"{folder / 'evals.csv'}: 1 row with an invalid step, such as ")


def test_folder_in_the_place_of_a_file_is_a_problem(tmp_path: Path) -> None:
    folder = put(tmp_path, make_cell(), evals=None)
    (folder / "evals.csv").mkdir()
    record = tmp_path / make_cell(seed=1).path / "run.json"
    record.mkdir(parents=True)
    found = load_results(tmp_path)
    assert len(found.runs) == 1
    assert [problem.partition(": ")[0] for problem in found.problems] == [str(folder / "evals.csv"), str(record)]


@pytest.mark.parametrize("bounds", [(0, 10**400), (5.0, 5.0), (1.0, 0.0), (math.nan, 1.0), (0.0, math.inf)])
def test_invalid_score_bounds_are_a_problem(tmp_path: Path, bounds: tuple[float, float]) -> None:
    good, bad = put(tmp_path, make_cell(seed=0)), put(tmp_path, make_cell(seed=1))
    change_record(bad, ("task", "low"), bounds[0])
    change_record(bad, ("task", "high"), bounds[1])
    found = load_results(tmp_path)
    assert found.runs["folder"].tolist() == [str(good)]
    (problem,) = found.problems
    assert problem.startswith(f"{bad / 'run.json'}: ")
    assert len(problem) < 300


@pytest.mark.parametrize(
    ("key", "value"), [("error", 10**400), ("error", ["x"]), ("auto", "many"), ("auto", 10**400), ("published", 3)]
)
def test_optional_keys_are_checked(tmp_path: Path, key: str, value: object) -> None:
    good, bad = put(tmp_path, make_cell(seed=0), error=None, auto=20), put(tmp_path, make_cell(seed=1))
    change_record(bad, (key,), value)
    found = load_results(tmp_path)
    assert found.runs["folder"].tolist() == [str(good)]
    assert found.problems[0].startswith(f"{bad / 'run.json'}: ")
    assert f"`$.{key}`" in found.problems[0]


def test_lone_surrogate_in_a_record_is_replaced(tmp_path: Path) -> None:
    folder = put(tmp_path, make_cell(), "failed", evals=None, error="no file \udcff \U0001f600")
    assert "\\udcff" in (folder / "run.json").read_text()
    assert load_results(tmp_path).runs["error"].tolist() == ["no file ? \U0001f600"]


def test_software_names_threads_and_every_segment(tmp_path: Path) -> None:
    first = {"device": "cpu", "precision": "float32", "threads": 1, "versions": {"torch": "2.1", "python": "3.11"}}
    later = {**first, "threads": 4}
    began = Segment(**first)
    put(tmp_path, make_cell(seed=0), **first)
    put(tmp_path, make_cell(seed=1), **first, began=began, resumed=[Resumed(at="now", step=20, **first)])
    put(tmp_path, make_cell(seed=2), **later, began=began, resumed=[Resumed(at="now", step=20, **later)])
    put(tmp_path, make_cell(seed=3), **first, resumed=[Resumed(at="now", step=20)])  # as early versions wrote it
    put(tmp_path, make_cell(seed=4), **(first | {"threads": None, "precision": "tf32"}))
    assert load_results(tmp_path).runs["software"].tolist() == [
        ("torch 2.1, on cpu with 1 thread",),
        ("torch 2.1, on cpu with 1 thread",),
        ("torch 2.1, on cpu with 1 thread", "torch 2.1, on cpu with 4 threads"),
        ("torch 2.1, on cpu with 1 thread",),
        ("torch 2.1, on cpu in tf32",),
    ]


def test_code_names_that_of_every_segment(tmp_path: Path) -> None:
    put(tmp_path, make_cell(seed=0), began=Segment(code="1a"), resumed=[Resumed(at="now", step=20, code="2b")])
    put(tmp_path, make_cell(seed=1))
    put(tmp_path, make_cell(seed=2), began=Segment(), resumed=[Resumed(at="now", step=20)])  # of an early version
    change_record(tmp_path / make_cell(seed=2).path, ("algo", "code"))
    code = make_cell().variant.code
    assert load_results(tmp_path).runs["code"].tolist() == [f"1a; then 2b; then {code}", code, ""]


def test_device_and_precision_are_empty_until_the_run_has_started(tmp_path: Path) -> None:
    begun = {"versions": {"torch": "2.1"}, "device": "cpu"}
    put(tmp_path, make_cell(seed=0), **begun)  # as earlier versions wrote it
    put(tmp_path, make_cell(seed=1), **begun | {"device": "cuda", "precision": "tf32"})
    put(tmp_path, make_cell(seed=2), "queued", evals=None, precision="tf32")
    runs = load_results(tmp_path).runs
    assert runs[["device", "precision"]].values.tolist() == [["cpu", "float32"], ["cuda", "tf32"], ["", ""]]


def test_foreign_files_are_ignored(tmp_path: Path) -> None:
    folder = put(tmp_path, make_cell())
    (tmp_path / "README.md").write_text("notes")
    (tmp_path / "mini" / "notes.txt").write_text("notes")
    (tmp_path / "mini" / "Pendulum-v1" / "td3" / ".DS_Store").write_bytes(b"\x00")
    (folder / "extra.json").write_text("{}")
    (folder.parent / "seed-x").mkdir()
    (folder.parent / "seed-x" / "run.json").write_text("noise")
    (folder.parent / "seed-9").write_text("a file where a folder should be")
    (tmp_path / "a" / "b" / "c" / "d" / "seed-1").mkdir(parents=True)
    os.symlink("nowhere", folder.parent / "seed-10")
    found = load_results(tmp_path)
    assert len(found.runs) == 1
    assert found.problems == []


def test_replaced_run_does_not_count(tmp_path: Path) -> None:
    folder = put(tmp_path, make_cell())
    shutil.copytree(folder, folder.with_name("replaced-20250101T000000Z-seed-0"))
    assert len(load_results(tmp_path).runs) == 1


@pytest.mark.parametrize("level", range(5))
def test_copied_folder_does_not_count_and_is_reported(tmp_path: Path, level: int) -> None:
    folder = put(tmp_path, make_cell(label="td3[x=1]"))
    original = [folder, *folder.parents][level]
    copy = original.with_name("seed-7" if level == 0 else f"{original.name}.bak")
    shutil.copytree(original, copy)
    found = load_results(tmp_path)
    assert found.runs["folder"].tolist() == [str(folder)]
    assert len(found.problems) == 1
    assert copy.name in found.problems[0]


def test_each_unreadable_record_is_one_line(tmp_path: Path) -> None:
    put(tmp_path, make_cell(seed=0))
    for seed, data in enumerate(NOISE.values(), 1):
        break_record(put(tmp_path, make_cell(seed=seed)), data)
    found = load_results(tmp_path)
    assert found.runs["seed"].tolist() == [0]
    assert len(found.problems) == len(NOISE)
    assert all("\n" not in problem for problem in found.problems)


def test_task_with_a_slash_in_its_name_is_found(tmp_path: Path) -> None:
    cell = make_cell(suite=make_suite(tasks=("phys2d/Pendulum-v0",)))
    put(tmp_path, cell)
    assert load_results(tmp_path).runs["task"].tolist() == ["phys2d/Pendulum-v0"]


def test_loading_changes_no_file(tmp_path: Path) -> None:
    put(tmp_path, make_cell(), "running")
    put(tmp_path, make_cell(seed=1))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    load_results(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
