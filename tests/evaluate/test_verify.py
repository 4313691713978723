"""`flowbench verify`: a run is trained again, and its evaluations are compared."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from fakes import EXAMPLE, TINY, make_cell, put_run, write_suite

from flowbench.evaluate import verify
from flowbench.evaluate.verify import Verification
from flowbench.store import records


@pytest.fixture
def trained(flowbench: Any, tmp_path: Path) -> Path:
    """An algorithm from a file, trained with two stacked seeds: the folder of the second."""
    suite = write_suite(tmp_path, tasks=["cartpole-balance"], steps=60, evaluation={"every": 30, "episodes": 1})
    arguments = ["--suite", suite, "--algo", f"{EXAMPLE}[{TINY}]", "--seeds", 2, "--stack", 2, "--device", "cpu"]
    assert flowbench("run", *arguments, "--results", tmp_path / "results")[0] == 0
    return list(records.folders(tmp_path / "results"))[1]


@pytest.mark.slow
def test_a_run_repeats_and_a_changed_record_does_not(trained: Path, flowbench: Any, tmp_path: Path) -> None:
    assert records.read_run(trained).group == [0, 1]
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    status, out, _ = flowbench("verify", trained, "--algo", EXAMPLE)
    assert status == 0
    assert "cartpole-balance seed 1: all 2 evaluations repeat exactly" in out
    assert "not as recorded" not in out
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before
    table = trained / "evals.csv"
    lines = table.read_text().splitlines()
    lines[-1] = re.sub(r"^60,[^,]*", "60,12.5", lines[-1])
    table.write_text("\n".join(lines) + "\n")
    record = records.read_run(trained)
    record.versions = {**(record.versions or {}), "torch": "1.0"}
    records.write_run(trained, record)
    status, out, _ = flowbench("verify", trained.relative_to(tmp_path / "results"), "--algo", EXAMPLE,
                               "--results", tmp_path / "results")  # fmt: skip
    assert status == 1
    assert "1 of 2 evaluations differ\n  step 60: mean is " in out
    assert "recorded 12.5" in out
    assert re.search(r"not as recorded:\n  torch is .*, recorded 1.0", out)


def test_a_run_that_fails_again_is_an_error(
    flowbench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(self: Any, folders: list[Path], locks: list[int], log: Any, on_event: Any) -> int:
        log.write("Traceback\nRuntimeError: no licence\n")
        on_event({"event": "tick", "step": 20})
        return 1

    monkeypatch.setattr(verify.LocalExecutor, "work", work)
    folder = put_run(tmp_path, make_cell(), device="cpu")
    (folder / "evals.csv").write_text("step,mean\n20,1\n40,2\n")
    seen: list[tuple[int, int]] = []
    found = verify.verify(folder, None, lambda *steps: seen.append(steps))
    assert found == Verification("td3 Pendulum-v1 seed 0", 2, [], [], "RuntimeError: no licence")
    assert seen == [(20, 40)]
    status, out, _ = flowbench("verify", folder)
    assert (status, out) == (1, "td3 Pendulum-v1 seed 0: could not be trained again: RuntimeError: no licence\n")


def test_what_differs_is_named() -> None:
    old = {20: {"step": "20", "mean": "1"}, 40: {"step": "40", "mean": "2"}}
    assert verify._differences(old, dict(old)) == []
    found = verify._differences(old, {20: {"step": "20", "mean": "1.5"}})
    assert found == ["step 20: mean is 1.5, recorded 1", "step 40: step is missing, recorded 40"]


def test_runs_that_cannot_be_verified(flowbench: Any, tmp_path: Path) -> None:
    queued = put_run(tmp_path, make_cell(), "queued")
    empty = put_run(tmp_path, make_cell(seed=1))
    own = put_run(tmp_path, make_cell("ddpg", target=EXAMPLE))
    gpu = put_run(tmp_path, make_cell(seed=2), device="cuda")
    for folder in (own, gpu):
        (folder / "evals.csv").write_text("step,mean\n40,1\n")
    for folder, words in (
        (tmp_path / "none", "is not a run's folder"),
        (queued, "is queued: only a finished run"),
        (empty, "no evaluations to compare"),
        (own, "give it with --algo FILE.py:CLASS"),
        (gpu, "no CUDA device"),
    ):
        status, out, err = flowbench("verify", folder)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert words in err
