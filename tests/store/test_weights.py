"""Weights that a finished run leaves, and what is read of them again."""

from __future__ import annotations

import json
import shutil
import struct
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
from flowbench.plan.options import RunOptions
from flowbench.schedule.groups import Group
from flowbench.schedule.resources import Slots
from flowbench.schedule.runner import Runner
from flowbench.store import checkpoint, records, weights
from flowbench.store.records import RunRecord

CELL = make_cell("td3")
RECORD = replace(RunRecord.of(CELL, [0]), threads=1)


def train(root: Path, seeds=(0,), **options: bool) -> list[Path]:
    """Train cells as one group; their folders."""
    cells = [make_cell("td3", seed=seed, suite=make_suite(steps=60, every=30)) for seed in seeds]
    runner = Runner(root, Slots(1, "cpu", 1), lambda *_: None, RunOptions(**options))
    assert {outcome.status for outcome in runner.run([Group(tuple(cells))])} == {"done"}
    return [root / cell.path for cell in cells]


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds trained as one computation, with their weights and checkpoints."""
    return train(tmp_path_factory.mktemp("stacked"), (0, 1), keep_weights=True, keep_checkpoints=True)


@pytest.fixture
def folder(stacked: list[Path], tmp_path: Path) -> Path:
    """A copy of the first run."""
    return Path(shutil.copytree(stacked[0], tmp_path / make_cell("td3", suite=make_suite(steps=60, every=30)).path))


@pytest.mark.slow
def test_stacked_seeds_have_weights_of_their_own(stacked: list[Path]) -> None:
    assert records.read_run(stacked[0]).learner.kind == "stacked"
    found = [weights.find(str(each), stacked[0]) for each in stacked]
    for each, path in zip(found, stacked, strict=True):
        assert each.source == path / "weights.safetensors"
        assert (each.step, each.obs_dim, each.act_dim) == (60, 3, 1)
        (kept,) = checkpoint.newest([path])
        state = under("learner.agent", kept.state)
        assert each.weights.keys() == state.keys()
        assert all(torch.equal(each.weights[name], state[name]) for name in state)
        assert not list(path.rglob("*.new"))
    (first, other) = (each.weights["actor.net.0.weight"] for each in found)
    assert not torch.equal(first, other)


@pytest.mark.slow
def test_weights_file_describes_its_run(folder: Path, tmp_path: Path) -> None:
    with safe_open(folder / weights.FILE, "pt") as file:
        read = {key: json.loads(value) for key, value in file.metadata().items()}
    run = records.read_run(folder).to_builtins()
    assert read["flowbench"] == __version__
    assert read["algo"]["target"] == "algos.td3:TD3"
    for key in ("config", "task", "algo", "protocol", "seed", "config_id", "suite"):
        assert read[key] == run[key]
    (folder / weights.FILE).rename(tmp_path / "mine")  # away from its run
    assert weights.find(str(tmp_path / "mine"), tmp_path).run.seed == 0


@pytest.mark.slow
def test_without_a_weights_file_the_newest_checkpoint_is_read(folder: Path, tmp_path: Path) -> None:
    (folder / weights.FILE).unlink()
    named = weights.find(str(folder.relative_to(tmp_path)), tmp_path)
    assert (named.step, named.obs_dim, named.act_dim) == (60, 3, 1)
    assert named.run.algo.name == "td3"
    (folder / "checkpoint" / "60.state.safetensors").write_bytes(b"noise")
    assert weights.find(str(folder), tmp_path).step == 30


@pytest.mark.slow
def test_run_without_keep_weights_leaves_none_and_removes_earlier_ones(folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder / checkpoint.FOLDER)
    records.write_run(folder, replace(records.read_run(folder), status="failed"))
    assert train(tmp_path) == [folder]
    assert not (folder / weights.FILE).exists()
    with pytest.raises(UsageError, match=r"\(done\) has no weights: .* --keep-weights"):
        weights.find(str(folder), tmp_path)


def test_equal_weights_give_equal_files(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, dtype=torch.float64), "c.d": torch.zeros(1, dtype=torch.bool)}
    written = set()
    for _ in range(20):
        weights.write(tmp_path, RECORD, 40, 3, 1, tensors)
        written.add((tmp_path / weights.FILE).read_bytes())
    assert len(written) == 1
    found = weights.find(str(tmp_path), tmp_path).weights
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    (size,) = struct.unpack("<Q", written.pop()[:8])
    assert size % 8 == 0  # tensors are aligned, as other readers of the format may need


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"algo": None}, r"Expected `object`, got `null` - at `\$\.algo`"),
        ({"obs_dim": "3"}, "'obs_dim': '3'"),
        ({"step": 0}, "'step': 0"),
        ({"threads": 10**30}, "'threads': 1000"),
        ({"seed": -1}, "not a weights file of flowbench"),
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
    with pytest.raises(UsageError, match="is not a run's folder"):
        weights.find("quick", tmp_path)
