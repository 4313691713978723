"""Weights that a finished run leaves, and what is read of them again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fakes import make_cell, make_suite
from msgspec.structs import replace
from safetensors import safe_open
from safetensors.torch import save_file

from flowbench import __version__
from flowbench.common.errors import UsageError
from flowbench.common.tensors import under
from flowbench.schedule.groups import Group
from flowbench.schedule.resources import Slots
from flowbench.schedule.runner import Runner
from flowbench.store import checkpoint, records, weights
from flowbench.store.records import RunRecord

CELL = make_cell("td3")
RECORD = replace(RunRecord.of(CELL, [0]), threads=1)


def trained(root: Path, seeds=(0,), **options) -> list[Path]:
    """Folders of finished runs."""
    cells = [make_cell("td3", seed=seed, suite=make_suite(steps=60, every=30)) for seed in seeds]
    runner = Runner(root, Slots(1, "cpu", 1), lambda *_: None, **options)
    assert {outcome.status for outcome in runner.run([Group(tuple(cells))])} == {"done"}
    return [root / cell.path for cell in cells]


def test_seeds_trained_as_one_leave_weights_of_their_own(tmp_path: Path) -> None:
    folders = trained(tmp_path, (0, 1), keep_weights=True, keep_checkpoints=True)
    assert records.read_run(folders[0]).learner.kind == "stacked"
    found = [weights.find(str(folder), tmp_path) for folder in folders]
    for each, folder in zip(found, folders, strict=True):
        assert each.source == folder / "weights.safetensors"
        assert (each.step, each.obs_dim, each.act_dim) == (60, 3, 1)
        (kept,) = checkpoint.newest([folder])
        state = under("learner.agent", kept.state)
        assert each.weights.keys() == state.keys()
        assert all(torch.equal(each.weights[name], state[name]) for name in state)
    (first, other) = (each.weights["actor.net.0.weight"] for each in found)
    assert not torch.equal(first, other)
    assert not list(tmp_path.rglob("*.new"))


def test_the_file_alone_says_what_it_is_of_in_strings(tmp_path: Path) -> None:
    (folder,) = trained(tmp_path, keep_weights=True)
    with safe_open(folder / weights.FILE, "pt") as file:
        said = file.metadata()
    run = records.read_run(folder)
    read = {key: json.loads(value) for key, value in said.items()}
    assert read["flowbench"] == __version__
    assert read["algo"]["target"] == "algos.td3:TD3"
    for key in ("config", "task", "algo", "protocol", "seed", "config_id", "suite"):
        assert read[key] == run[key]
    (folder / weights.FILE).rename(tmp_path / "mine")  # away from its run
    assert weights.find(str(tmp_path / "mine"), tmp_path).run["seed"] == 0


def test_without_being_asked_nothing_is_left(tmp_path: Path) -> None:
    (folder,) = trained(tmp_path)
    assert not (folder / weights.FILE).exists()
    with pytest.raises(UsageError, match=r"no weights are left .*\(done\).* --keep-weights"):
        weights.find(str(folder), tmp_path)


def test_a_run_with_a_checkpoint_alone_gives_those_of_the_newest(tmp_path: Path) -> None:
    (folder,) = trained(tmp_path, keep_checkpoints=True)
    named = weights.find(str(folder.relative_to(tmp_path)), tmp_path)
    assert (named.step, named.obs_dim, named.act_dim) == (60, 3, 1)
    assert named.run["algo"]["name"] == "td3"
    (folder / "checkpoint" / "60.state.safetensors").write_bytes(b"noise")
    assert weights.find(str(folder), tmp_path).step == 30


def test_an_attempt_that_begins_anew_clears_the_weights_of_the_one_before(tmp_path: Path) -> None:
    (folder,) = trained(tmp_path, keep_weights=True)
    records.write_run(folder, replace(records.read_run(folder), status="failed"))
    trained(tmp_path)
    assert not (folder / weights.FILE).exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"algo": None}, "algo.name is None"),
        ({"obs_dim": "3"}, "'obs_dim': '3'"),
        ({"step": 0}, "'step': 0"),
        ({"threads": 10**30}, "'threads': 1000"),
        ({"seed": -1}, "no weights of flowbench"),
        ({"schema": 99}, "schema 99"),
    ],
)
def test_a_file_that_says_something_else_is_refused_in_a_line(tmp_path: Path, changes, said: str) -> None:
    weights.write(tmp_path, RECORD, 40, 3, 1, {"a": torch.ones(1)})
    assert weights.find(str(tmp_path), tmp_path).weights["a"].tolist() == [1.0]
    path = tmp_path / weights.FILE
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file({"a": torch.ones(1)}, path, metadata | {key: json.dumps(value) for key, value in changes.items()})
    with pytest.raises(UsageError, match=said) as caught:
        weights.find(str(tmp_path), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x80\x04noise", b"\xff" * 100, b"{}"])
def test_a_file_of_noise_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read"):
        weights.find(str(path), tmp_path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(UsageError, match="not a run of flowbench"):
        weights.find(str(path), tmp_path)


def test_what_is_no_run_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no run 'quick/absent'"):
        weights.find("quick/absent", tmp_path)
    (tmp_path / "quick").mkdir()
    with pytest.raises(UsageError, match="is no run's folder"):
        weights.find("quick", tmp_path)
