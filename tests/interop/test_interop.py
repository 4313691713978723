"""Published curves: importing every format, and exporting our runs in the same formats."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
from fakes import make_cell, make_suite, write_suite
from msgspec.structs import replace

import suites
from flowbench import cli, report
from flowbench.common.errors import UsageError
from flowbench.interop import exporting, importing, match
from flowbench.store import records
from flowbench.store.csv_rows import RowWriter
from flowbench.store.load import EVAL_KEYS, EVAL_NUMBERS, load_results
from flowbench.store.records import RunRecord

SIMBA = ",exp_name,env_name,seed,metric,env_step,value\n"
PLAIN = "algo,task,seed,step,return\n"
EXPORTED = "algo,task,seed,simulator_step,return\n"
JSON = '{"walk": {"SAC": {"seed_0": {%s}}}}'


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def ours(root: Path, algo: str = "td3", seeds=(0, 1), evals=((20, 1.5), (40, 2.25)), **changes) -> None:
    """Finished runs of the suite made by `fakes.make_suite`."""
    for seed in seeds:
        cell = make_cell(algo, seed=seed, **changes)
        folder = root / cell.path
        records.write_run(folder, replace(RunRecord.of(cell, [seed]), status="done"))
        writer = RowWriter(folder / "evals.csv", ["step", "mean"])
        for step, mean in evals:
            writer.append({"step": step, "mean": mean + seed / 3})
        writer.close()


def import_csv(tmp_path: Path, rows: str, **options) -> importing.Imported:
    """Import rows of a CSV file into `tmp_path / "out"`."""
    path = write(tmp_path / "a.csv", PLAIN + rows)
    return importing.import_curves("csv", path, tmp_path / "out", **{"suite": "dmc-hard", **options})


def curves(root: Path, **chosen) -> dict[tuple[str, str, int], list[tuple[int, float]]]:
    """What the store holds, by task, label and seed."""
    evals = load_results(root, **chosen).evals
    return {
        key: list(zip(own["step"], own["mean"], strict=True)) for key, own in evals.groupby(["task", "algo", "seed"])
    }


def recorded(root: Path) -> list[RunRecord]:
    return [records.read_run(folder) for folder in records.folders(root)]


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# Formats


def test_tdmpc2_has_a_folder_per_algorithm_and_a_file_per_task(tmp_path: Path) -> None:
    write(tmp_path / "in" / "tdmpc2" / "dog-run.csv", "step,reward,seed\n0,4.5,2\n100000,7.6,2\n0,3.5,1\n")
    write(tmp_path / "in" / "sac" / "dog-run.csv", "step,reward,seed\n0,1.0,1\n")
    importing.import_curves("tdmpc2", tmp_path / "in", tmp_path / "out", suite="dmc-hard")
    assert curves(tmp_path / "out") == {
        ("dog-run", "sac (published)", 1): [(0, 1.0)],
        ("dog-run", "tdmpc2 (published)", 1): [(0, 3.5)],
        ("dog-run", "tdmpc2 (published)", 2): [(0, 4.5), (100_000, 7.6)],
    }


def test_the_folder_of_a_tdmpc2_file_is_the_algorithm_for_relative_paths_too(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path / "tdmpc2" / "dog-run.csv", "step,reward,seed\n0,4.5,2\n")
    monkeypatch.chdir(tmp_path / "tdmpc2")
    found = importing.import_curves("tdmpc2", Path("dog-run.csv"), tmp_path / "out", suite="dmc-hard")
    assert [run.record.algo.name for run in found.runs.values()] == ["published-tdmpc2"]


def test_simbav2_reads_returns_only(tmp_path: Path) -> None:
    rows = "0,simba,dog_run,4000,avg_return,50000.0,64.25\n1,simba,dog_run,4000,avg_success,50000.0,1.0\n"
    path = write(tmp_path / "simba.csv", SIMBA + rows + "2,simba,dog_run,4000,avg_return,0.0,10.5\n")
    importing.import_curves("simbav2", path, tmp_path / "out", suite="dmc-hard")
    assert curves(tmp_path / "out") == {("dog-run", "simba (published)", 4000): [(0, 10.5), (50_000, 64.25)]}


def test_humanoidbench_counts_millions_of_steps(tmp_path: Path) -> None:
    curve = {"million_steps": [0.0, 0.35000000000000003, 2], "return": [1.5, -2, 700]}
    path = write(tmp_path / "curves.json", json.dumps({"h1-walk-v0": {"Blocked DreamerV3": {"seed_0": curve}}}))
    importing.import_curves("humanoidbench", path, tmp_path / "out", suite="humanoid-bench")
    found = curves(tmp_path / "out")
    assert found == {("h1-walk", "Blocked DreamerV3 (published)", 0): [(0, 1.5), (350_000, -2.0), (2_000_000, 700.0)]}


def test_a_task_without_a_robot_needs_the_suite(tmp_path: Path) -> None:
    curve = {"million_steps": [0.0], "return": [1.5]}
    path = write(tmp_path / "curves.json", json.dumps({"walk": {"SAC": {"seed_0": curve}}}))
    found = importing.import_curves("humanoidbench", path, tmp_path / "out")
    assert not found.runs
    assert "'walk' (1 curve): may be of another robot; if it is 'h1-walk', use --suite" in found.left_out[0]
    importing.import_curves("humanoidbench", path, tmp_path / "out", suite="humanoid-bench")
    assert list(curves(tmp_path / "out")) == [("h1-walk", "SAC (published)", 0)]


def test_csv_may_have_more_columns_in_any_order_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = '\ufeffreturn,seed,algo,note,task,step\n1.5,3,ppo,"a, b",dog_run,1e5\n\nnan,3,ppo,,dog_run,200000\n'
    importing.import_curves("csv", write(tmp_path / "a.csv", text), tmp_path / "out", suite="dmc-hard")
    ((key, points),) = curves(tmp_path / "out").items()
    assert key == ("dog-run", "ppo (published)", 3)
    assert points[0] == (100_000, 1.5)
    assert points[1][0] == 200_000
    assert math.isnan(points[1][1])


def test_a_later_value_at_the_same_step_wins_and_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", PLAIN + "ppo,dog-run,0,10,1\nppo,dog-run,0,10,2\n")
    found = importing.import_curves("csv", path, tmp_path / "out", suite="dmc-hard")
    assert curves(tmp_path / "out") == {("dog-run", "ppo (published)", 0): [(10, 2.0)]}
    assert found.left_out == [f"{path}: 1 value replaced by a later line at the same step"]


BAD = {
    "no rows": ("csv", "", "is empty"),
    "a near column": (
        "csv",
        "algo,task,seed,step,returns\n",
        "line 1: has no column 'return'; the nearest is 'returns' (columns: algo, task, seed, step, returns)",
    ),
    "no task": ("csv", "algo,seed,step,return\n", "line 1: has no column 'task' (columns: algo, seed, step, return)"),
    "no steps": ("csv", "algo,task,seed,return\n", "line 1: has no column 'simulator_step'"),
    "text for a return": ("csv", PLAIN + "ppo,dog-run,0,10,1\nppo,dog-run,0,20,high\n", "line 3: return is 'high'"),
    "two returns": ("csv", "algo,task,seed,step,return,return\n", "line 1: 2 columns are named 'return'"),
    "half a step": ("csv", PLAIN + "ppo,dog-run,0,10.5,1\n", "line 2: step is '10.5'"),
    "a step before": ("csv", PLAIN + "ppo,dog-run,0,-10,1\n", "line 2: step is '-10'"),
    "an endless step": ("csv", PLAIN + "ppo,dog-run,0,inf,1\n", "line 2: step is 'inf'"),
    "no algorithm": ("csv", PLAIN + " ,dog-run,0,10,1\n", "line 2: algo is ' ', not a name"),
    "a short line": ("csv", PLAIN + "ppo,dog-run,0\n", "line 2: 3 values for 5 columns"),
    "bytes": ("csv", b"\xff\xfe\x00", "is not UTF-8 text"),
    "simbav2": ("simbav2", SIMBA + "0,sac,dog_run,0,avg_return,x,1\n", "line 2: env_step is 'x'"),
    "tdmpc2": ("tdmpc2", "step,reward,seed\n0,,1\n", "line 2: reward is ''"),
    "no JSON": ("humanoidbench", '{"walk":\n{"SAC" 3}}', "not JSON: Expecting ':' delimiter: line 2 column 8"),
    "endless nesting": ("humanoidbench", "[" * 100_000, "not JSON"),
    "a list": ("humanoidbench", "[]", "expected a mapping, got 'list'"),
    "bad seed": ("humanoidbench", '{"walk": {"SAC": {"first": {}}}}', "walk: SAC: expected seed_ and a number"),
    "no returns": ("humanoidbench", JSON % '"million_steps": [1]', "expected a list of numbers 'return', got None"),
    "fewer returns": (
        "humanoidbench",
        JSON % '"million_steps": [1, 2], "return": [1]',
        "as steps, got '2 and 1'",
    ),
    "text in a list": ("humanoidbench", JSON % '"million_steps": ["1"], "return": [1]', "'million_steps', got ['1']"),
    "half a character": ("humanoidbench", r'{"walk": {"\ud800": {}}}', r"walk: expected a name, got '\ud800'"),
    "no step": ("humanoidbench", JSON % '"million_steps": [-1], "return": [1]', "expected a number of steps, got -1.0"),
}


@pytest.mark.parametrize(("format", "data", "said"), BAD.values(), ids=BAD.keys())
def test_an_invalid_file_is_named_and_nothing_is_written(tmp_path, capsys, format, data, said) -> None:
    suffix = "json" if format == "humanoidbench" else "csv"
    write(tmp_path / "in" / f"a.{suffix}", PLAIN + "ppo,dog-run,0,10,1\n" if format == "csv" else data)
    bad = tmp_path / "in" / f"b.{suffix}"
    bad.write_bytes(data if isinstance(data, bytes) else data.encode())
    assert cli._status(["import", format, str(bad), "--results", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(bad) in line
    assert said in line
    assert cli._status(["import", format, str(bad.parent), "--results", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_names_in_a_file_are_only_data(tmp_path: Path) -> None:
    text = PLAIN + "=cmd('x'),dog-run,0,10,1\n../../evil,dog-run,0,10,1\n"
    importing.import_curves("csv", write(tmp_path / "in" / "a.csv", text), tmp_path / "out", suite="dmc-hard")
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}
    assert len(load_results(tmp_path / "out").runs) == 2
    assert load_results(tmp_path / "out").problems == []


# Names


@pytest.mark.parametrize(
    ("spelled", "meant"),
    [
        ("h1-balance_hard-v0", "h1-balance_hard"), ("h1_balance_hard_v0", "h1-balance_hard"),
        ("h1-balance-hard-v0", "h1-balance_hard"), ("h1-walk-v0", "h1-walk"), ("dog_run", "dog-run"),
        ("dog-run", "dog-run"), ("Dog-Run", "dog-run"), ("finger-turn-hard", "finger-turn_hard"),
        ("ball_in_cup_catch", "ball_in_cup-catch"), ("cup-catch", "ball_in_cup-catch"),
    ],
)  # fmt: skip
def test_names_are_matched_in_any_spelling(spelled: str, meant: str) -> None:
    found = match.find(spelled, match.candidates(None))
    assert {task.name for _, task in found} == {meant}


@pytest.mark.parametrize("name", ["h1hand-walk-v0", "dog", "run", "walk", "cheetah-run-back", "dog-run-fast", ""])
def test_another_task_is_not_matched(name: str) -> None:
    assert match.find(name, match.candidates(None)) == []


def test_a_task_is_imported_into_every_comparable_suite() -> None:
    assert [suite.name for suite, _ in match.find("dog_run", match.candidates(None))] == ["dmc-hard", "flowrl-paper"]
    assert [suite.name for suite, _ in match.find("walker_stand", match.candidates(None))] == ["dmc-easy"]
    assert [suite.name for suite, _ in match.find("walker_stand", match.candidates("quick"))] == ["quick"]


def test_the_version_of_a_gymnasium_task_is_part_of_its_name() -> None:
    suite = make_suite(tasks=("Ant-v4", "Ant-v5"))
    assert [task.name for _, task in match.find("ant_v5", [suite])] == ["Ant-v5"]
    assert match.find("Ant-v3", [suite]) == []
    assert match.find("Ant", [suite]) == []


def test_unmatched_tasks_are_listed_with_the_nearest_name(tmp_path: Path, capsys) -> None:
    text = PLAIN + "ppo,dog-run,0,10,1\nppo,dog-runn,0,10,1\nppo,dog-runn,1,10,1\n"
    arguments = ["import", "csv", str(write(tmp_path / "a.csv", text)), "--results", str(tmp_path / "out")]
    assert cli._status(arguments) == 0
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert "task 'dog-runn' (2 curves): no task of that name in dmc-easy, " in line
    assert line.endswith("the nearest is 'dog-run'")
    assert "published-ppo" in said.out
    write(tmp_path / "a.csv", PLAIN + "ppo,Ant-v4,0,10,1\n")
    assert cli._status(arguments) == 2
    listed, last = capsys.readouterr().err.splitlines()
    assert "'Ant-v4'" in listed
    assert "contains nothing that could be imported" in last


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tdmpc", "a.csv"], "unknown format 'tdmpc'; did you mean 'tdmpc2'?"),
        (["csv", "b.csv"], "no file or folder 'b.csv'"),
        (["csv", "empty"], "no .csv file below this folder"),
        (["csv", "a.csv", "--suite", "dmc-hrad"], "unknown suite 'dmc-hrad'"),
        (["csv", "a.csv", "--results", "a.csv"], "cannot be written"),
        (["csv", "dots.csv", "--algo-prefix", ""], "cannot be named '..'; add a prefix with --algo-prefix"),
    ],
)
def test_import_usage_errors(tmp_path: Path, monkeypatch, capsys, arguments, said) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.csv", PLAIN + "ppo,dog-run,0,10,1\n")
    write(tmp_path / "dots.csv", PLAIN + "..,dog-run,0,10,1\n")
    (tmp_path / "empty").mkdir()
    assert cli._status(["import", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


# Runs


def test_a_record_holds_the_source_and_the_unit_of_steps(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", PLAIN + "ppo,cartpole_swingup,7,0,1\nppo,cartpole_swingup,7,4000,2\n")
    importing.import_curves("csv", path, tmp_path / "out", suite="quick")
    (record,) = recorded(tmp_path / "out")
    assert record.published is not None
    assert msgspec.to_builtins(record.published) == {
        "format": "csv",
        "file": str(path),
        "sha256": record.published.sha256,
        "algo": "ppo",
        "task": "cartpole_swingup",
        "step_unit": "simulator steps",
        "simulator_steps_per_step": 8,
    }
    assert (record.status, record.seed) == ("done", 7)
    assert record.algo.name == "published-ppo"
    assert record.task.name == "cartpole-swingup"
    assert record.protocol.steps == 500


def test_steps_are_rounded_up_to_those_of_the_suite(tmp_path: Path) -> None:
    """The suite quick repeats an action 8 times: 16 simulator steps are 2 of its steps, and 17 become 3."""
    import_csv(tmp_path, "".join(f"ppo,cartpole-swingup,0,{step},{step}\n" for step in (0, 16, 17)), suite="quick")
    assert list(curves(tmp_path / "out").values()) == [[(0, 0.0), (2, 16.0), (3, 17.0)]]


def test_importing_twice_changes_nothing(tmp_path: Path) -> None:
    import_csv(tmp_path, "ppo,dog-run,0,10,1\n", suite=None)
    before = content(tmp_path / "out")
    import_csv(tmp_path, "ppo,dog-run,0,10,1\n", suite=None)
    assert content(tmp_path / "out") == before
    assert len(before) == 4  # two files in each of two suites


def test_curves_missing_from_a_new_version_are_removed(tmp_path: Path) -> None:
    """Only curves of the same file, prefix and suite are removed."""
    rows = [f"{algo},dog-run,{seed},10,1\n" for algo in ("ppo", "sac") for seed in (0, 1)]
    path = write(tmp_path / "a.csv", PLAIN + "".join(rows))
    other = write(tmp_path / "b.csv", PLAIN + "dreamer,dog-run,0,10,1\n")
    out = tmp_path / "out"
    for file in (path, other):
        importing.import_curves("csv", file, out, suite="dmc-hard")
    importing.import_curves("csv", path, out, suite="flowrl-paper")
    importing.import_curves("csv", path, out, suite="dmc-hard", prefix="other-")
    kept = {name: data for name, data in content(out).items() if not name.startswith("dmc-hard/dog-run/published-")}

    write(path, PLAIN + "ppo,dog-run,0,20,3\n")
    removed = importing.import_curves("csv", path, out, suite="dmc-hard").removed
    assert sorted(folder.relative_to(out).parts[2::2] for folder in removed) == [
        ("published-ppo", "seed-1"), ("published-sac", "seed-0"), ("published-sac", "seed-1"),
    ]  # fmt: skip
    assert {name: data for name, data in content(out).items() if name in kept} == kept
    labels = sorted(curves(out, suite_names=["dmc-hard"]))
    assert [own for own in labels if "other" not in own[1]] == [
        ("dog-run", "dreamer (published)", 0), ("dog-run", "ppo (published)", 0),
    ]  # fmt: skip
    assert curves(out, suite_names=["dmc-hard"])["dog-run", "ppo (published)", 0] == [(20, 3.0)]
    assert not (out / "dmc-hard" / "dog-run" / "published-sac").exists()


def test_files_of_the_same_name_in_different_folders_differ(tmp_path: Path, monkeypatch, capsys) -> None:
    for folder, seeds in (("v1", (0, 1, 2)), ("v2", (0, 1))):
        rows = "".join(f"ppo,dog-run,{seed},10,{len(seeds)}\n" for seed in seeds)
        write(tmp_path / folder / "a.csv", PLAIN + rows)
    monkeypatch.chdir(tmp_path)
    importing.import_curves("csv", Path("v1/a.csv"), tmp_path / "out", suite="dmc-hard")
    before = content(tmp_path / "out")
    monkeypatch.chdir(tmp_path / "v2")
    arguments = ["import", "csv", "a.csv", "--suite", "dmc-hard", "--results", str(tmp_path / "out")]
    assert cli._status(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"was imported from {tmp_path / 'v1' / 'a.csv'} before; " in line
    assert line.endswith("--replace")
    assert content(tmp_path / "out") == before

    assert cli._status([*arguments, "--replace"]) == 0
    assert "removed 1 curve of an earlier version" in capsys.readouterr().out
    assert curves(tmp_path / "out") == {
        ("dog-run", "ppo (published)", 0): [(10, 2.0)],
        ("dog-run", "ppo (published)", 1): [(10, 2.0)],
    }
    assert cli._status(arguments) == 0  # from now on it is that file's


def test_a_file_that_has_moved_is_the_same_file(tmp_path: Path) -> None:
    path = write(tmp_path / "v1" / "a.csv", PLAIN + "ppo,dog-run,0,10,1\n")
    importing.import_curves("csv", path, tmp_path / "out", suite="dmc-hard")
    (tmp_path / "v1").rename(tmp_path / "v2")
    importing.import_curves("csv", tmp_path / "v2", tmp_path / "out", suite="dmc-hard")
    assert [record.published.file for record in recorded(tmp_path / "out")] == [str(tmp_path / "v2" / "a.csv")]


def test_a_new_version_that_yields_nothing_removes_nothing(tmp_path: Path) -> None:
    import_csv(tmp_path, "ppo,dog-run,0,10,1\n")
    import_csv(tmp_path, "")
    assert len(recorded(tmp_path / "out")) == 1


def test_other_files_in_the_folder_of_a_removed_curve_stay(tmp_path: Path) -> None:
    import_csv(tmp_path, "ppo,dog-run,0,10,1\nppo,dog-run,1,10,1\n")
    gone = next(folder for folder in records.folders(tmp_path / "out") if folder.name == "seed-1")
    write(gone / "mine.txt", "mine")
    import_csv(tmp_path, "ppo,dog-run,0,10,1\n")
    assert [file.name for file in gone.iterdir()] == ["mine.txt"]


def test_a_curve_from_another_file_needs_another_prefix(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", PLAIN + "ppo,dog-run,0,10,1\n")
    second = write(tmp_path / "b.csv", PLAIN + "ppo,dog-walk,0,10,1\nppo,dog-run,0,10,2\n")
    importing.import_curves("csv", first, tmp_path / "out", suite="dmc-hard")
    with pytest.raises(UsageError, match=r"was imported from .*a\.csv before; give one of them another --algo-prefix"):
        importing.import_curves("csv", second, tmp_path / "out", suite="dmc-hard")
    importing.import_curves("csv", second, tmp_path / "out", suite="dmc-hard", prefix="other-")
    assert sorted(curves(tmp_path / "out")) == [
        ("dog-run", "other-ppo (published)", 0),
        ("dog-run", "ppo (published)", 0),
        ("dog-walk", "other-ppo (published)", 0),
    ]


def test_two_spellings_of_a_task_in_a_file_are_rejected(tmp_path: Path) -> None:
    said = "ppo, dog_run, seed 0 would be the same run as ppo, dog-run, seed 0 in .*a.csv; remove one of them"
    with pytest.raises(UsageError, match=said):
        import_csv(tmp_path, "ppo,dog-run,0,10,1\nppo,dog_run,0,20,1\n")


@pytest.mark.parametrize("replace", [False, True])
def test_a_curve_in_two_files_of_a_folder_is_rejected(tmp_path: Path, replace: bool) -> None:
    for name in ("a", "b"):
        write(tmp_path / "in" / f"{name}.csv", PLAIN + f"ppo,dog-run,0,10,{len(name)}\n")
    with pytest.raises(UsageError, match=r"b\.csv: ppo, dog-run, seed 0 would be the same run as .*a\.csv; remove one"):
        importing.import_curves("csv", tmp_path / "in", tmp_path / "out", suite="dmc-hard", replace=replace)
    assert not (tmp_path / "out").exists()


def test_own_runs_are_never_changed(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, tasks=["cartpole-balance"])
    task = suites.load(suite, check_tasks=False)
    ours(tmp_path / "out", "sac", seeds=(0,), suite=task)
    before = content(tmp_path / "out")
    path = write(tmp_path / "a.csv", PLAIN + "sac,cartpole-balance,0,40,9\n")
    importing.import_curves("csv", path, tmp_path / "out", suite=suite, prefix="")
    after = content(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert set(load_results(tmp_path / "out").runs["algo"]) == {"sac", "sac (published)"}

    (published,) = (Path(row.folder) for row in load_results(tmp_path / "out").runs.itertuples() if row.published)
    record = records.read_run(published)
    record.published = None
    records.write_run(published, record)
    with pytest.raises(UsageError, match="was not imported"):
        importing.import_curves("csv", path, tmp_path / "out", suite=suite, prefix="")


# Exporting


@pytest.mark.parametrize(("format", "name"), [("tdmpc2", "out"), ("simbav2", "out.csv"), ("csv", "out.csv")])
def test_an_export_can_be_imported_again(tmp_path: Path, format: str, name: str) -> None:
    suite = write_suite(tmp_path, action_repeat=2)
    loaded = suites.load(suite, check_tasks=False)
    for label in ("td3", "td3[tau=0.1,hidden=8]"):
        for task in loaded.tasks:
            ours(tmp_path / "ours", label=label, tau=0.1 if "[" in label else 0.2, suite=loaded, task=task)
    found = load_results(tmp_path / "ours")
    exporting.run(format, tmp_path / name, found.runs, found.evals)
    importing.import_curves(format, tmp_path / name, tmp_path / "back", suite=suite)
    before, after = curves(tmp_path / "ours"), curves(tmp_path / "back")
    assert len(before) == 8
    assert set(after) == {(task, f"{algo} (published)", seed) for task, algo, seed in before}
    for (task, algo, seed), points in before.items():
        np.testing.assert_allclose(after[task, f"{algo} (published)", seed], points, rtol=1e-15)


def test_simulator_steps_are_exported(tmp_path: Path) -> None:
    suite = suites.load(write_suite(tmp_path, action_repeat=2), check_tasks=False)
    ours(tmp_path / "ours", seeds=(0,), suite=suite)
    found = load_results(tmp_path / "ours")
    exporting.run("simbav2", tmp_path / "out.csv", found.runs, found.evals)
    assert (tmp_path / "out.csv").read_text() == (
        SIMBA + "0,td3,cartpole-balance,0,avg_return,40.0,1.5\n" + "1,td3,cartpole-balance,0,avg_return,80.0,2.25\n"
    )


def test_the_plain_format_names_simulator_steps_as_such(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, action_repeat=2)
    ours(tmp_path / "ours", seeds=(0,), suite=suites.load(suite, check_tasks=False))
    found = load_results(tmp_path / "ours")
    exporting.run("csv", tmp_path / "out.csv", found.runs, found.evals)
    text = (tmp_path / "out.csv").read_text()
    assert text == EXPORTED + "td3,cartpole-balance,0,40,1.5\ntd3,cartpole-balance,0,80,2.25\n"
    both = EXPORTED.replace("simulator_step", "step,simulator_step") + "td3,cartpole-balance,0,20,40,1.5\n"
    for name, content in (("new", text), ("old", text.replace("simulator_step", "step")), ("both", both)):
        write(tmp_path / f"{name}.csv", content)
        importing.import_curves("csv", tmp_path / f"{name}.csv", tmp_path / name, suite=suite)
        ((_, points),) = curves(tmp_path / name).items()
        assert points[0] == (20, 1.5)


def test_published_runs_are_not_exported(tmp_path: Path) -> None:
    ours(tmp_path / "ours", seeds=(0,))
    path = write(tmp_path / "a.csv", PLAIN + "ppo,dog-run,0,10,1\n")
    importing.import_curves("csv", path, tmp_path / "ours", suite="dmc-hard")
    found = load_results(tmp_path / "ours")
    exporting.run("csv", tmp_path / "out.csv", found.runs, found.evals)
    assert (tmp_path / "out.csv").read_text() == EXPORTED + "td3,Pendulum-v1,0,20,1.5\ntd3,Pendulum-v1,0,40,2.25\n"


def test_scores_are_runs_by_tasks(tmp_path: Path) -> None:
    suite = make_suite(tasks=("b-task", "a-task"))
    for place, task in enumerate(suite.tasks):
        ours(tmp_path / "ours", seeds=(3, 1), evals=((40, -750.0 * place),), suite=suite, task=task)
    ours(tmp_path / "ours", seeds=(5,), evals=((40, 0.0),), suite=suite)
    found = load_results(tmp_path / "ours")
    written = exporting.run("scores", tmp_path / "scores.json", found.runs, found.evals)
    read = json.loads((tmp_path / "scores.json").read_text())
    assert read["tasks"] == ["a-task", "b-task"]
    assert (read["suite"], read["step"]) == ("mini", 40)
    assert read["algorithms"]["td3"]["seeds"] == [1, 3]
    # Score 0 is a return of -1500 and score 1 one of 0; seed k adds k / 3 to a return.
    expected = [[(750 + k / 3) / 1500, (1500 + k / 3) / 1500] for k in (1, 3)]
    np.testing.assert_allclose(read["algorithms"]["td3"]["scores"], expected)
    assert written.what == "normalised scores at step 40, runs x tasks: td3 2 x 2"
    assert written.left_out == ["td3, seeds 5: not on every task"]


@pytest.mark.slow
def test_scores_are_taken_at_the_step_of_a_report(tmp_path: Path) -> None:
    ours(tmp_path / "ours")
    ours(tmp_path / "ours", "sac", evals=((20, 1.5),), steps=20)
    found = load_results(tmp_path / "ours")
    written = exporting.run("scores", tmp_path / "scores.json", found.runs, found.evals)
    read = json.loads((tmp_path / "scores.json").read_text())
    section = report.build(found.runs, found.evals, reps=10).sections[0]
    assert (read["step"], tuple(read["algorithms"])) == (section.step, section.algos) == (40, ("td3",))
    assert written.left_out == ["sac is left out: it trains for 20 steps only (include it with --step 20)"]
    exporting.run("scores", tmp_path / "early.json", found.runs, found.evals, step=20)
    assert list(json.loads((tmp_path / "early.json").read_text())["algorithms"]) == ["sac", "td3"]
    waiting = found.evals[found.evals["algo"] == "sac"]
    with pytest.raises(UsageError, match=r"nothing to export; sac is left out: .*\(include it with --step 20\)"):
        exporting.run("scores", tmp_path / "none.json", found.runs, waiting)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["out.csv", "--format", "simba"], "unknown format 'simba'; did you mean 'simbav2'?"),
        (["there.csv"], "'there.csv' exists already"),
        (["out.csv", "--step", "20"], "--step is for --format scores; csv holds whole curves"),
        (["out.json", "--format", "scores", "--step", "10"], "no algorithm has a seed that counts on all 1 tasks"),
        (["there.csv/out.csv"], "cannot be written"),
        (["out.csv", "--results", "nowhere"], "there is no results folder"),
        (["out.csv", "--suite", "other"], "unknown suite in these results 'other'"),
    ],
)
def test_export_usage_errors(tmp_path: Path, monkeypatch, capsys, arguments, said) -> None:
    monkeypatch.chdir(tmp_path)
    ours(tmp_path / "results")
    write(tmp_path / "there.csv", "mine")
    assert cli._status(["export", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert (tmp_path / "there.csv").read_text() == "mine"


def test_one_suite_is_exported_at_a_time(tmp_path: Path) -> None:
    ours(tmp_path)
    ours(tmp_path, suite=make_suite("other"))
    found = load_results(tmp_path)
    with pytest.raises(UsageError, match=r"several suites \(mini, other\)"):
        exporting.run("csv", tmp_path / "out.csv", found.runs, found.evals)
    with pytest.raises(UsageError, match="nothing to export"):
        exporting.run(
            "csv",
            tmp_path / "out.csv",
            found.runs.iloc[:0],
            pd.DataFrame(columns=[*EVAL_KEYS, *EVAL_NUMBERS]),
        )
