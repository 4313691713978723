"""The self-check before training on a GPU, on a pretended one."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from fake_cuda import DEVICE, FakeCuda
from fakes import Toy, ToyConfig, make_cell, put_run

import algos
from flowbench.learners.placement import Placement
from flowbench.store import records
from flowbench.worker import __main__ as worker_main
from flowbench.worker import self_check
from flowbench.worker.session import Session

FEW = {"qvpo": {"denoising_steps": 2, "train_samples": 2, "eval_samples": 2}}


def difference(name: str, stack: bool) -> str:
    cls = algos.find(name).load()
    config = cls.Config(hidden=8, batch_size=4, **FEW.get(name, {}))
    return self_check.difference(cls, 2, 1, config, [0, 1], Placement(DEVICE, stack=stack))


@pytest.mark.parametrize(("name", "stack"), [(name, k % 2 == 0) for k, name in enumerate(algos.names())])
def test_graphs_agree_with_eager_mode_and_no_random_number_is_drawn(name: str, stack: bool, cuda: FakeCuda) -> None:
    before = torch.get_rng_state()
    assert difference(name, stack) == ""
    assert cuda.counts["replays"] >= 4
    assert torch.equal(torch.get_rng_state(), before)


def test_on_a_cpu_nothing_is_checked() -> None:
    class Never(Toy):
        def __init__(self, *args):
            raise AssertionError

    assert self_check.difference(Never, 2, 1, ToyConfig(), [0], Placement(torch.device("cpu"))) == ""


@pytest.mark.parametrize(("operation", "differs"), [
    ("_fused_adam_.default", "weights of actor"),  # nothing is learned
    ("randn_like.default", "actions"),  # no new noise
    ("_foreach_lerp_.Scalar", "weights of target_critic"),  # the averages stay
    ("_foreach_add_.List", "critic/loss"),  # nothing is logged
])  # fmt: skip
@pytest.mark.parametrize("stack", [False, True])
def test_a_wrong_replay_is_noticed(operation: str, differs: str, stack: bool, cuda: FakeCuda) -> None:
    name, overload = operation.split(".")
    cuda.left_out.add(getattr(getattr(torch.ops.aten, name), overload))
    assert difference("sac", stack) == differs


class Reads(Toy):
    def critic_loss(self, batch):
        loss, diagnostics = super().critic_loss(batch)
        return loss * (1.0 if batch.reward.sum().item() > 0 else 2.0), diagnostics


def test_what_cannot_be_captured_is_not_wrong_and_reported_later(cuda: FakeCuda, capsys) -> None:
    assert self_check.difference(Reads, 2, 1, ToyConfig(), [0, 1], Placement(DEVICE)) == ""
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("wrong", [False, True])
def test_a_run_with_wrong_graphs_warns_and_trains_without(wrong: bool, tmp_path: Path, cuda: FakeCuda, capsys) -> None:
    if wrong:
        cuda.left_out.add(torch.ops.aten._fused_adam_.default)
    cell = make_cell("td3", random_steps=10)
    folder = put_run(tmp_path, cell, "queued", device="cuda", threads=1, precision="tf32")
    events = io.StringIO()
    assert worker_main._run(Session([folder]), events) == 0
    run = records.read_run(folder)
    assert (run.device, run.machine.gpu, run.learner.replay) == ("cuda", "a pretended GPU", "cuda")
    notes = [event["text"] for event in map(json.loads, events.getvalue().splitlines()) if event["event"] == "note"]
    said = capsys.readouterr().err
    after_check = [graph for graph in cuda.captured if graph() is not None]
    if wrong:
        expected = "CUDA graphs are not used, because their replay computed other weights of actor than eager mode"
        assert run.note == expected
        assert notes == [f"td3 Pendulum-v1: {expected}"]
        assert expected in said
        assert not after_check
    else:
        assert run.note is None
        assert not notes
        assert "graph" not in said


def test_running_statistics_do_not_hide_a_wrong_replay(cuda: FakeCuda) -> None:
    cuda.left_out.add(torch.ops.aten._foreach_lerp_.Scalar)
    assert difference("flashsac", False) == "weights of target_critic"
