"""What must hold on a CUDA device; skipped where there is none."""

from __future__ import annotations

import csv
import json

import pytest
import torch

import algos
from flowbench.cli import _status
from flowbench.streams import TorchStream

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

TINY = ["--set", "hidden=16", "--set", "batch_size=16", "--set", "random_steps=100"]


def test_a_stream_gives_the_same_numbers_on_the_device_whatever_is_drawn_between():
    device = torch.device("cuda")
    stream = TorchStream(7, device)
    with stream:
        first = torch.randn(3, device=device)
    torch.randn(100, device=device)
    with stream:
        second = torch.randn(3, device=device)
    other = TorchStream(7, device)
    with other:
        assert torch.equal(torch.randn(3, device=device), first)
        assert torch.equal(torch.randn(3, device=device), second)


@pytest.mark.parametrize("name", algos.names())
def test_a_run_on_cuda_finishes_and_says_so(name, tmp_path):
    cell = ["--suite", "quick", "--task", "cartpole-swingup", "--algo", name, "--seeds", "1", "--steps", "400"]
    assert _status(["run", *cell, *TINY, "--device", "cuda", "--results", str(tmp_path), "--quiet"]) == 0
    (record,) = tmp_path.glob("*/*/*/*/seed-0/run.json")
    run = json.loads(record.read_text())
    assert run["status"] == "done"
    assert run["device"] == "cuda"
    assert run["machine"]["gpu"]
    (row,) = list(csv.DictReader(record.with_name("evals.csv").open()))
    assert int(row["step"]) == 400
