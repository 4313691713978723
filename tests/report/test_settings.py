"""The settings of a suite that differ from the defaults stand beside its numbers, in every format."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from fakes import put_run, write_suite
from msgspec.structs import replace
from reports import build, frames, shown

from flowbench import report
from flowbench.plan.expand import expand
from flowbench.store import records
from flowbench.store.load import load_results

NOTE = "Settings of this suite that differ from the defaults: sac: none; td3: lr 0.01, random_steps 20, tau 0.5"


def put(root: Path, folder: Path, overrides, algos=("td3", "td3[tau=0.2]", "sac"), name="mini") -> None:
    suite = write_suite(folder, name, overrides=overrides, tasks=["cartpole-balance"])
    for cell in expand(suite, list(algos), "3"):
        (put_run(root, cell) / "evals.csv").write_text(f"step,mean\n300,{cell.seed}\n")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    # gamma is the default, and so is the number of random steps of SAC
    td3 = {"lr": 0.01, "tau": 0.5, "random_steps": 20, "gamma": 0.99}
    put(tmp_path / "results", tmp_path, {"td3": td3}, ("td3", "td3[tau=0.2]", "sac[random_steps=10]"))
    return tmp_path / "results"


def test_settings_are_recorded_as_they_are_in_effect(results: Path) -> None:
    found = {(run := records.read_run(folder)).algo.label: run.algo.overrides for folder in records.folders(results)}
    assert found == {
        "td3": {"lr": 0.01, "tau": 0.5, "random_steps": 20},
        "td3[tau=0.2]": {"lr": 0.01, "random_steps": 20},
        "sac[random_steps=10]": {},
    }


def test_the_note_is_in_every_format(results: Path, flowbench) -> None:
    common = ("--results", results, "--reps", 50)
    for format in ("table", "markdown", "latex", "csv"):
        _, out, _ = flowbench("report", *common, "--format", format)
        text = " ".join(out.replace("\\", "").split())
        assert NOTE in text, format
        if format == "csv":
            assert [row["kind"] for row in csv.DictReader(io.StringIO(out)) if row["note"] == NOTE] == ["note"]
        if format == "latex":  # a comment would not be in the paper
            captions = [line.replace("\\", "") for line in out.splitlines() if "caption{" in line]
            assert [NOTE in caption for caption in captions] == [True, *[False] * (len(captions) - 1)]
    _, out, _ = flowbench("report", *common, "--format", "json", "--html", results.parent / "page.html")
    settings = json.loads(out)["suites"][0]["settings"]
    assert settings == {"sac": {}, "td3": {"lr": [0.01], "tau": [0.5], "random_steps": [20]}}
    assert NOTE in (results.parent / "page.html").read_text(encoding="utf-8")
    _, out, _ = flowbench("compare", "td3", "sac", *common)
    assert NOTE in " ".join(out.split())


def test_without_such_settings_there_is_no_note(tmp_path: Path) -> None:
    put(tmp_path / "results", tmp_path, {"td3": {"gamma": 0.99}}, ("td3[random_steps=10]", "sac[random_steps=10]"))
    found = load_results(tmp_path / "results")
    assert "Settings" not in shown(report.build(found.runs, found.evals, reps=50))
    assert "Settings" not in shown(build(*frames()))  # nothing is known


def test_a_setting_that_changed_between_runs_has_both_values(results: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    put(results, tmp_path / "other", {"td3": {"tau": 0.7, "random_steps": 20}}, ("td3",))
    found = load_results(results)
    text = " ".join(shown(report.build(found.runs, found.evals, reps=50)).split())
    assert "td3: lr 0.01, random_steps 20, tau 0.5 or 0.7" in text


def test_runs_of_earlier_versions_have_the_settings_of_the_suite_as_it_is(tmp_path: Path) -> None:
    for cell in expand("quick", ["sac", "sac[lr=0.5]"], "1"):
        folder = put_run(tmp_path, cell)
        run = records.read_run(folder)
        records.write_run(folder, replace(run, algo=replace(run.algo, overrides=None)))
    rows = load_results(tmp_path).runs.drop_duplicates("algo").set_index("algo")["settings"]
    assert {"hidden", "batch_size", "random_steps"} <= rows["sac"].keys()
    assert rows["sac[lr=0.5]"] == {key: value for key, value in rows["sac"].items() if key != "lr"}
