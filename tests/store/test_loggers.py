"""Rows copied to TensorBoard and Weights & Biases."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import make_cell

from flowbench.common.errors import UsageError
from flowbench.store import loggers
from flowbench.store.records import RunRecord

ROWS = [{"step": 20, "mean": -3.5, "std": 0.5}, {"step": 40, "mean": -1.5, "std": 0.25}]


def record() -> RunRecord:
    return RunRecord.of(make_cell(), [0])


def test_unknown_logger_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'tensorbord'.*did you mean 'tensorboard'"):
        loggers.check(["tensorboard", "tensorbord"])


def test_missing_logger_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"wandb is not installed; install it with: pip install -e '\.\[log\]'"):
        loggers.check(["wandb"])


def test_tensorboard_holds_every_value_at_its_step(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = loggers.Loggers(["tensorboard"], tmp_path, record())
    for row in ROWS:
        logger.append("evals", row)
    logger.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"evals/mean", "evals/std"}
    assert [(event.step, event.value) for event in events.Scalars("evals/mean")] == [(20, -3.5), (40, -1.5)]


def test_wandb_gets_a_run_that_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    told: list[object] = []

    class Run:
        def log(self, values: dict[str, float], step: int) -> None:
            told.append((step, values))

        def finish(self) -> None:
            told.append("finished")

    def init(**options: object) -> Run:
        told.append(options)
        return Run()

    monkeypatch.setattr(wandb, "init", init)
    logger = loggers.Loggers(["wandb"], tmp_path, record())
    logger.append("evals", ROWS[0])
    logger.close()
    options, logged, end = told
    assert isinstance(options, dict)
    assert (options["project"], options["dir"]) == ("flowbench", str(tmp_path))
    assert options["config"]["seed"] == 0
    assert logged == (20, {"evals/mean": -3.5, "evals/std": 0.5})
    assert end == "finished"


def test_failing_logger_is_dropped_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def __init__(self, folder: Path, run: object, step: int) -> None:
            self.rows = 0

        def append(self, table: str, row: object) -> None:
            self.rows += 1
            raise ConnectionError("no network")

        def close(self) -> None:
            raise AssertionError("a logger that was dropped is not closed")

    monkeypatch.setitem(loggers.LOGGERS, "wandb", Broken)
    logger = loggers.Loggers(["wandb"], tmp_path, record())
    logger.append("evals", ROWS[0])
    logger.append("evals", ROWS[1])
    logger.close()
    assert capsys.readouterr().err == "--log wandb is dropped: ConnectionError: no network\n"
