"""`flowbench results`: what is in a folder, what differs, what is removed, what is merged."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from fakes import EXAMPLE, make_cell, make_suite, put_run

import suites
from flowbench.store import lock, manage, records

OLD = "replaced-20260101T000000000000Z-seed-0"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """SAC with two seeds, TD3 with one, an algorithm from a file, and a replaced run."""
    results = tmp_path / "results"
    own = tmp_path / "mine.py"
    shutil.copy(EXAMPLE.rpartition(":")[0], own)
    for cell in (
        make_cell("sac"),
        make_cell("sac", seed=1),
        make_cell("td3", lr=0.5),
        make_cell("ddpg", target=f"{own}:DDPG"),
    ):
        (put_run(results, cell, device="cpu") / "evals.csv").write_text("step,mean\n40,-100\n")
    sac = results / make_cell("sac").path
    shutil.copytree(sac, sac.with_name(OLD))
    return results


def config(algo: str) -> str:
    return make_cell(algo, **({"lr": 0.5} if algo == "td3" else {})).variant.config_id


def test_variants_are_listed_with_their_runs(root: Path, flowbench: Any) -> None:
    status, out, _ = flowbench("results", "ls", "--results", root)
    assert status == 0
    assert re.search(rf"sac +mini +{config('sac')} +1 +0-1 +2 done +0\.0 MB", out)
    assert out.count(" done ") == 3
    assert "td3" not in flowbench("results", "ls", "--results", root, "--algo", "sac")[1]
    (root / make_cell("sac").path / "big").write_bytes(bytes(2_500_000))
    assert "2.5 MB" in flowbench("results", "ls", "--results", root)[1]


def test_a_record_is_shown(root: Path, flowbench: Any) -> None:
    below = make_cell("td3", lr=0.5).path
    status, out, _ = flowbench("results", "show", below, "--results", root)
    assert status == 0
    expected = {"status": "done", "config.lr": "0.5", "protocol.steps": "40", "task.name": "Pendulum-v1"}
    for key, value in expected.items():
        assert re.search(rf"^ {re.escape(key)} +{value}", out, re.MULTILINE), key
    status, out, _ = flowbench("results", "show", root / below, "--format", "json")
    assert json.loads(out) == json.loads((root / below / "run.json").read_text())


def test_only_what_differs_between_two_variants_is_shown(root: Path, flowbench: Any) -> None:
    folder = root / make_cell("sac", seed=1).path
    record = records.read_run(folder)
    record.versions = {"torch": "9.9"}
    records.write_run(folder, record)
    found = manage.differences(manage.find(root, "sac"), manage.find(root, "td3"))
    rows = {key: (one, other) for key, one, other in found}
    assert rows["config.lr"] == ("0.0003", "0.5")
    assert rows["seeds.Pendulum-v1"] == ("0-1", "0")
    assert rows["versions.torch"] == ("9.9", "-")
    assert rows["config.policy_delay"] == ("-", "2")
    assert not {"config.hidden", "protocol.steps", "suite.name", "status"} & rows.keys()
    labelled = put_run(root, make_cell("td3", label="td3[hidden=16]", hidden=16))
    assert manage.find(root, "td3[hidden=16]").folders == [labelled]
    assert manage.find(root, "td3").config_id == config("td3")  # the label itself
    qvpo = make_cell("qvpo", label="qvpo[hidden=16]", hidden=16)
    config_of_qvpo = qvpo.variant.config_id
    put_run(root, qvpo)
    assert manage.find(root, "qvpo").label == "qvpo[hidden=16]"  # the only one
    run = root / make_cell("td3", lr=0.5).path
    status, out, _ = flowbench("results", "diff", config("sac"), run, "--results", root)
    assert status == 0
    assert re.search(r"^ config\.lr +0\.0003 +0\.5", out, re.MULTILINE)
    assert f"qvpo[hidden=16] ({config_of_qvpo})" in flowbench("results", "diff", "qvpo", "sac", "--results", root)[1]


# Removal


def test_nothing_is_removed_without_an_answer(root: Path, flowbench: Any) -> None:
    before = sorted(root.rglob("*"))
    status, out, err = flowbench("results", "rm", "sac", "--results", root)
    assert (status, err.count("\n")) == (2, 1)
    assert "--yes" in err
    assert f"remove mini sac ({config('sac')}), 2 runs" in out
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize(("answer", "status"), [("n\n", 130), ("y\n", 0)])
def test_the_answer_decides(
    answer: str, status: int, root: Path, flowbench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    assert flowbench("results", "rm", "td3", "--results", root)[0] == status
    assert (root / make_cell("td3", lr=0.5).path).exists() == (status != 0)


def test_variants_are_removed_but_never_a_running_cell(root: Path, flowbench: Any) -> None:
    running = root / make_cell("sac", seed=1).path
    with lock.hold(running):
        status, _, err = flowbench("results", "rm", "sac", config("td3"), "--yes", "--results", root)
    assert status == 1
    assert f"another process trains it: {running}" in err
    assert running.exists()
    assert not (root / make_cell("sac").path).exists()
    assert not (root / "mini" / "Pendulum-v1" / "td3").exists()
    assert not list(root.rglob(".removed-*"))
    assert flowbench("results", "rm", "sac", "--yes", "--results", root)[0] == 0
    assert not running.exists()


def test_dead_variants_are_those_of_edited_files_and_replaced_runs(root: Path, flowbench: Any, tmp_path: Path) -> None:
    assert [text for text, _ in manage.dead(root)] == ["1 run replaced with --force"]
    own = tmp_path / "mine.py"
    code = own.read_text()
    own.unlink()  # it may be on the machine where the runs were trained
    assert [text for text, _ in manage.dead(root)] == ["1 run replaced with --force"]
    own.write_text(code + "\n# edited\n")
    status, out, _ = flowbench("results", "rm", "--dead", "--yes", "--results", root)
    assert status == 0
    assert "mine.py:DDPG has been edited since" in out
    assert {path.parent.parent.name for path in records.folders(root)} == {"sac", "td3"}
    assert not list(root.rglob(OLD))
    assert flowbench("results", "rm", "--dead", "--results", root)[1] == "nothing is dead\n"


# Merging


def test_folders_are_merged_without_overwriting(root: Path, flowbench: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    new = put_run(other, make_cell("sac", seed=2))
    (new / "evals.csv").write_text("step,mean\n40,-50\n")
    (new / "lease").mkdir()
    (new / "lease" / "host.0").write_text("1 1")
    queued = put_run(root, make_cell("sac", seed=3), "queued")
    put_run(other, make_cell("sac", seed=3), device="cpu")
    put_run(other, make_cell("sac", seed=4), "queued")
    shutil.copytree(root / make_cell("sac").path, other / make_cell("sac").path)
    differs = put_run(other, make_cell("td3", lr=0.5))  # the same cell, run again: no evals.csv
    kept = (root / make_cell("td3", lr=0.5).path / "evals.csv").read_bytes()
    status, out, err = flowbench("results", "merge", other, "--results", root)
    assert (status, out) == (1, "2 runs copied, 1 there already, 1 conflict\n")
    assert f"conflict: {differs}: " in err
    assert "another run of the same cell" in err
    assert "seed-4: queued" in err
    assert (root / new.relative_to(other) / "evals.csv").read_text() == "step,mean\n40,-50\n"
    assert not (root / new.relative_to(other) / "lease").exists()
    assert records.status(queued) == "done"
    assert (root / make_cell("td3", lr=0.5).path / "evals.csv").read_bytes() == kept
    assert not list(root.rglob(".merged-*"))
    shutil.rmtree(differs)
    again = flowbench("results", "merge", other, "--results", root)
    assert again[:2] == (0, "0 runs copied, 3 there already, 0 conflicts\n")
    assert flowbench("results", "merge", other, "--results", tmp_path / "new")[0] == 0
    assert flowbench("results", "ls", "--results", tmp_path / "new")[0] == 0


def test_a_task_with_other_settings_is_a_conflict(root: Path, flowbench: Any, tmp_path: Path) -> None:
    task = suites.Task("Pendulum-v1", "gymnasium", 2, suites.Score(-1500.0, 0.0), {"g": 5.0})
    put_run(tmp_path / "other", make_cell("sac", seed=7, task=task))
    status, out, err = flowbench("results", "merge", tmp_path / "other", "--results", root)
    assert (status, out) == (1, "0 runs copied, 0 there already, 1 conflict\n")
    assert "Pendulum-v1 has action_repeat 1 (not 2), env_args None (not {'g': 5.0})" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ls", "--results", "{}/none"], "none"),
        (["show", "nowhere"], "'nowhere' is not a run's folder"),
        (["diff", "sac", "tdd3"], "no variant is called 'tdd3'"),
        (["diff", "sac", "td3", "--suite", "quick"], "unknown suite"),
        (["rm"], "--dead"),
        (["merge", "{}/none"], "none"),
        (["merge", "{}"], "is the results folder itself"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], words: str, root: Path, flowbench: Any) -> None:
    given = [argument.replace("{}", str(root)) for argument in arguments]
    status, out, err = flowbench("results", *given, *([] if "--results" in given else ["--results", root]))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_a_label_of_two_suites_is_ambiguous(root: Path, flowbench: Any) -> None:
    put_run(root, make_cell("sac", suite=make_suite("other")))
    status, _, err = flowbench("results", "diff", "sac", "td3", "--results", root)
    assert status == 2
    assert "name its suite with --suite" in err
    assert flowbench("results", "diff", "sac", "td3", "--suite", "mini", "--results", root)[0] == 0
