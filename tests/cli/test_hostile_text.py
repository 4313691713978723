"""Names and errors of records may hold anything: what is printed of them commands no terminal and no spreadsheet."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import pytest
from fakes import make_cell, make_suite, put_run
from msgspec.structs import replace

from flowbench.common.errors import describe, printable
from flowbench.store import records

EVIL = "\x1b]0;owned\x07\x1b[2J\r\u202e\x9b2J"  # sets the title of the window, clears the screen, turns the direction
RAW = "\x1b\x07\x9b\u202e\r"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Runs of two algorithms with names, a note and an error of such characters; one record is unreadable."""
    root = tmp_path / "results"
    suite = make_suite(note=f"note {EVIL}", comparable=False)
    for algo in ("td3", "sac"):
        for seed in range(3):
            cell = make_cell(algo, seed=seed, suite=suite)
            folder = put_run(root, cell, "failed" if algo == "td3" and seed == 2 else "done", error=f"Boom: {EVIL}!")
            run = records.read_run(folder)
            label = f"{algo}[{EVIL}]" if algo == "td3" else "=sac"
            records.write_run(folder, replace(run, algo=replace(run.algo, label=label)))
            if run.status == "done":
                (folder / "evals.csv").write_text(f"step,mean\n20,-900\n40,-{800 + seed}\n")
    broken = put_run(root, make_cell("qvpo", suite=suite), "done")
    run = json.loads((broken / "run.json").read_text())
    (broken / "run.json").write_text(json.dumps({**run, "schema": f"{EVIL}"}))
    return root


COMMANDS = [
    ("status",),
    *(("report", "--reps", "50", "--format", format) for format in ("table", "markdown", "latex", "csv")),
    *(("compare", "=sac", f"td3[{EVIL}]", "--reps", "50", "--format", format) for format in ("table", "markdown")),
    ("watch", "--once"),
    ("report", "--algo", f"no {EVIL}"),
    ("export", "--format", "csv"),
    ("results", "ls"),
    ("results", "diff", "=sac", f"td3[{EVIL}]"),
    ("results", "rm", f"td3[{EVIL}]", "--yes"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[::4]))
def test_control_characters_reach_no_terminal(results: Path, tmp_path: Path, flowbench, command) -> None:
    command = [*command, tmp_path / "out.csv"] if command[0] == "export" else command
    status, out, err = flowbench(*command, "--results", results)
    assert status == (2 if command[-1] == f"no {EVIL}" else 0)
    assert not set(RAW) & set(out + err)
    assert "owned" in out + err


def test_json_has_the_names_as_they_are(results: Path, flowbench) -> None:
    status, out, err = flowbench("report", "--results", results, "--reps", 50, "--format", "json")
    assert status == 0
    assert not set("\x1b\x07\r") & set(out + err)  # JSON escapes these itself
    assert f"td3[{EVIL}]" in json.loads(out)["suites"][0]["algos"]


def test_the_names_in_a_weights_file_are_not_obeyed(tmp_path: Path, flowbench, monkeypatch) -> None:
    from flowbench.evaluate import trained_agent
    from flowbench.store import weights

    numbers = dict.fromkeys(("mean", "score", "std", "min", "max", "length"), 1.0)
    fields = {field.name for field in dataclasses.fields(trained_agent.EvaluationResult)}
    values = {"algo": f"[red]{EVIL}", "task": EVIL, "seed": 0, "step": 1, "episodes": 1, **numbers}
    result = trained_agent.EvaluationResult(**{name: values.get(name, []) for name in fields})
    monkeypatch.setattr(weights, "find", lambda *_: None)
    monkeypatch.setattr(trained_agent, "evaluate", lambda *_: result)
    status, out, _ = flowbench("eval", "run")
    assert status == 0
    assert not set(RAW) & set(out)
    assert "[red]" in out


def test_an_exception_is_described_in_characters_that_can_be_printed() -> None:
    assert describe(ValueError("a \x1b[2J\nb")) == r"ValueError: a \x1b[2J b"


def test_escaped_text_is_one_line_and_leaves_the_rest() -> None:
    assert printable("flowrl[tau=0.5] τ é 漢") == "flowrl[tau=0.5] τ é 漢"
    assert printable("a\tb\nc\u00a0d") == "a b c d"
    assert printable("\x1b\x00\udc80") == r"\x1b\x00\udc80"


@pytest.mark.parametrize("name", ["=1+2", "+1", "-x", "@SUM(A1)", "'=1", "''-2"])
def test_no_cell_of_a_csv_report_is_a_formula(results: Path, flowbench, name: str) -> None:
    for folder in records.folders(results):
        run = records.read_if_valid(folder)
        if run and run.algo.label == "=sac":
            records.write_run(folder, replace(run, algo=replace(run.algo, label=name)))
    _, out, _ = flowbench("report", "--results", results, "--reps", 50, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {row["algo"] for row in rows if "sac" not in row["algo"]} >= {f"'{name}"}
    texts = [value for row in rows for value in row.values() if not is_number(value)]
    assert not [text for text in texts if text.startswith(("=", "+", "-", "@"))]
    assert any(row["estimate"].startswith("-") for row in rows)  # numbers stay numbers


def test_an_export_of_such_names_is_read_back_as_it_was(results: Path, tmp_path: Path, flowbench) -> None:
    status, _, _ = flowbench("export", tmp_path / "out.csv", "--algo", "sac", "--results", results)
    assert status == 0
    assert [line.split(",")[0] for line in (tmp_path / "out.csv").read_text().splitlines()][1] == "'=sac"
    from flowbench.interop import plain

    assert {point.algo for point in plain.read(tmp_path / "out.csv")} == {"=sac"}


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
