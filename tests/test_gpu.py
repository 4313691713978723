"""Properties on a CUDA device; skipped without one."""

from __future__ import annotations

import contextlib
import copy
import csv
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from fakes import Toy, ToyConfig, without_clock

import algos
from algos.agent import Batch
from flowbench.cli import _status
from flowbench.common import system
from flowbench.common.rng import TorchStream, stream_seed
from flowbench.learners import seed_learners
from flowbench.learners.learner import EagerLearner
from flowbench.learners.placement import Placement
from flowbench.store import records
from flowbench.worker import self_check

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

TINY = ["--set", "hidden=16", "--set", "batch_size=16", "--set", "random_steps=100"]


def test_a_stream_on_the_device_does_not_depend_on_other_draws():
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
def test_a_run_on_cuda_finishes_and_records_its_device(name, tmp_path):
    cell = ["--suite", "quick", "--task", "cartpole-swingup", "--algo", name, "--seeds", "1", "--steps", "400"]
    assert _status(["run", *cell, *TINY, "--device", "cuda", "--results", str(tmp_path), "--quiet"]) == 0
    (record,) = tmp_path.glob("*/*/*/*/seed-0/run.json")
    run = json.loads(record.read_text())
    assert run["status"] == "done"
    assert run["device"] == "cuda"
    assert run["machine"]["gpu"]
    (row,) = list(csv.DictReader(record.with_name("evals.csv").open()))
    assert int(row["step"]) == 400


# Learning by graphs


class Quiet(Toy):
    """A Toy that draws no noise, so that two ways of training it can be compared."""

    period = 2

    def act(self, obs, explore):
        return torch.tanh(self.actor(obs))

    def critic_loss(self, batch):
        q = self.critic(torch.cat([batch.obs, batch.action], -1)).squeeze(-1)
        return (q - batch.reward - 0.5 * batch.discount).square().mean(), {"q": q.mean()}

    def update(self, batch, learner, phase):
        learner.minimise("critic", self.critic_loss, batch)
        if phase == 1:
            learner.minimise("actor", self.actor_loss, batch)


def batches(count: int, seeds: int, obs: int = 4, act: int = 2, size: int = 16) -> list[Batch]:
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(seeds, size, *shape, generator=generator)

    made = [
        Batch(normal(obs), torch.tanh(normal(act)), normal(), normal(obs), (normal() > -1).float(), torch.zeros(seeds))
        for _ in range(count)
    ]
    return [Batch(*(part.cuda() for part in batch)) for batch in made]


@pytest.mark.parametrize("stack", [False, True])
def test_replayed_graphs_compute_what_single_operations_do(stack):
    built = seed_learners.build(Quiet, 4, 2, ToyConfig(), [0, 1], Placement(torch.device("cuda"), stack=stack))
    torch.manual_seed(0)
    eager = [EagerLearner(copy.deepcopy(agent), torch.device("cuda")) for agent in first_agents(Quiet, [0, 1])]
    for batch in batches(20, 2):
        built.update(batch)
        for index, learner in enumerate(eager):
            learner.update(Batch(*(part[index] for part in batch)))
    obs = torch.randn(2, 4, device="cuda")
    for index, learner in enumerate(eager):
        for name, value in learner.agent.state_dict().items():
            torch.testing.assert_close(built.weights(index)[name], value.cpu(), rtol=1e-3, atol=1e-5)
        assert built.means(index) == pytest.approx(learner.means(), rel=1e-3, abs=1e-5)
    for _ in range(6):  # the later ones are replayed
        chosen = built.act(obs)
    for index, learner in enumerate(eager):
        torch.testing.assert_close(chosen[index], learner.act(obs[index : index + 1], True)[0], rtol=1e-3, atol=1e-5)


def first_agents(cls, seeds):
    made = []
    for seed in seeds:
        with TorchStream(stream_seed(seed, "torch"), torch.device("cuda")):
            made.append(cls(4, 2, ToyConfig()))
    return made


@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("name", algos.names())
def test_every_algorithm_is_captured(name, stack, capfd):
    cls = algos.find(name).load()
    learner = seed_learners.build(
        cls, 4, 2, cls.Config(hidden=16), [0, 1], Placement(torch.device("cuda"), stack=stack)
    )
    for batch in batches(12, 2):
        learner.update(batch)
        learner.act(batch.obs[:, 0])
    assert "not captured" not in capfd.readouterr().err
    assert all(math.isfinite(value) for value in learner.means(0).values())


def test_a_replayed_graph_draws_new_noise_each_time():
    cls = algos.find("sac").load()
    learner = seed_learners.build(cls, 4, 2, cls.Config(hidden=16), [0, 1], Placement(torch.device("cuda"), stack=True))
    obs = torch.ones(2, 4, device="cuda")
    seen = torch.stack([learner.act(obs).clone() for _ in range(12)])
    assert len(torch.unique(seen[:, 0, 0])) == 12
    assert not torch.equal(seen[:, 0], seen[:, 1])


def test_an_agent_that_cannot_be_captured_is_trained_and_reported(capfd):
    class Reads(Toy):  # which draws noise: a refused capture must leave the generator usable
        def critic_loss(self, batch):
            loss, diagnostics = super().critic_loss(batch)
            return loss * (1.0 if batch.reward.sum().item() > 0 else 2.0), diagnostics

    learner = seed_learners.build(Reads, 4, 2, ToyConfig(), [0], Placement(torch.device("cuda")))
    for batch in batches(12, 1):
        learner.update(batch)
    said = capfd.readouterr().err
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert "not captured as a CUDA graph" in said
    assert "test_gpu.py" in said
    assert learner.updates == 12
    assert math.isfinite(learner.means(0)["critic/loss"])


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("name", algos.names())
def test_the_self_check_agrees(name, stack, precision):
    cls = algos.find(name).load()
    placement = Placement(torch.device("cuda"), stack=stack, precision=precision)
    assert self_check.difference(cls, 67, 21, cls.Config(), list(range(5)), placement) == ""


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_a_stacked_run_on_cuda_finishes_in_every_precision(precision, tmp_path):
    cell = ["--suite", "quick", "--task", "cartpole-swingup", "--algo", "flowrl", "--seeds", "3", "--steps", "400"]
    options = ["--device", "cuda", "--stack", "3", "--precision", precision]
    assert _status(["run", *cell, *TINY, *options, "--results", str(tmp_path), "--quiet"]) == 0
    records = sorted(tmp_path.glob("*/*/*/*/seed-*/run.json"))
    assert len(records) == 3
    for record in records:
        run = json.loads(record.read_text())
        assert (run["status"], run["group"], run["precision"]) == ("done", [0, 1, 2], precision)
        assert run["learner"]["kind"] == "stacked"
        assert run["learner"]["replay"] == "cuda"
    assert "not captured" not in records[0].with_name("log.txt").read_text()


# Groups that share a GPU


def test_groups_share_a_gpu_and_record_their_memory(tmp_path):
    """Also: each worker sees one GPU, and a dry run afterwards knows time and memory."""
    cell = ["--suite", "quick", "--task", "cartpole-swingup", "--algo", "sac", "--seeds", "2", "--steps", "400"]
    options = ["--device", "cuda", "--stack", "1", "--gpus", "0", "--per-gpu", "2", "--threads", "1"]
    assert _status(["run", *cell, *TINY, *options, "--results", str(tmp_path), "--quiet"]) == 0
    runs = [json.loads(path.read_text()) for path in tmp_path.glob("*/*/*/*/seed-*/run.json")]
    assert [run["status"] for run in runs] == ["done", "done"]
    total = torch.cuda.mem_get_info()[1]
    for run in runs:
        assert (run["per_gpu"], run["threads"]) == (2, 1)
        # A CUDA context alone takes over 100 MiB; these networks next to nothing.
        assert 100 * 2**20 < run["memory"]["gpu_bytes"] < min(4 * 2**30, total)
        assert run["memory"]["host_bytes"] > 2**26


def test_as_many_groups_share_a_gpu_as_fit(tmp_path, capsys):
    cell = ["--suite", "quick", "--task", "cartpole-swingup", "--algo", "sac", "--seeds", "2", "--steps", "400"]
    options = ["--device", "cuda", "--stack", "1", "--gpus", "0", "--per-gpu", "auto", "--calibrate", "--dry-run"]
    assert _status(["run", *cell, *TINY, *options, "--results", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "calibration" in said
    assert "is not known" not in said
    number = int(said.partition("--per-gpu auto: ")[2].partition(",")[0])
    assert number >= 1
    assert "GPU ?" not in said


def test_the_driver_knows_the_gpu():
    visible = system.gpus()
    assert len(visible) == torch.cuda.device_count()
    model = system.gpu_model(visible[0])
    if not visible[0].startswith("MIG-"):
        assert model is not None
        assert model[0] == torch.cuda.get_device_name(0)
        assert model[1] == pytest.approx(torch.cuda.mem_get_info(0)[1], rel=0.05)


@pytest.mark.parametrize("stack", [1, 2])
@pytest.mark.parametrize("name", algos.names())
def test_a_killed_run_on_cuda_resumes_to_the_same_rows(name, stack, tmp_path):
    command = [
        sys.executable, "-m", "flowbench.cli", "run", "--suite", "quick", "--task", "cartpole-swingup", "--algo", name,
        "--seeds", "2", "--stack", str(stack), "--steps", "800", "--checkpoint-every", "100", *TINY, "--device", "cuda",
        "--quiet", "--results",
    ]  # fmt: skip

    def tables(root):
        return [without_clock(path) for path in sorted(root.glob("*/*/*/*/seed-*/*.csv"))]

    for once in ("whole", "again"):  # before anything is killed: two runs are alike
        subprocess.run([*command, str(tmp_path / once)], check=True)
    assert tables(tmp_path / "whole") == tables(tmp_path / "again") != []
    broken = tmp_path / "broken"
    parent = subprocess.Popen([*command, str(broken)])
    while parent.poll() is None and not list(broken.rglob("checkpoint/300.json")):
        time.sleep(0.005)
    found = [records.read_if_valid(path.parent) for path in broken.glob("*/*/*/*/seed-*/run.json")]
    parent.kill()
    for pid in {record.pid for record in found if record and record.status == "running"}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    parent.wait()
    subprocess.run([*command, str(broken)], check=True)
    assert any(records.read_run(path.parent).resumed for path in broken.glob("*/*/*/*/seed-*/run.json"))
    assert tables(broken) == tables(tmp_path / "whole")


@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("name", algos.names())
def test_no_algorithm_uses_an_operation_that_torch_knows_to_be_nondeterministic(name, stack):
    cls = algos.find(name).load()
    torch.use_deterministic_algorithms(True)
    try:
        learner = seed_learners.build(
            cls, 4, 2, cls.Config(hidden=16), [0, 1], Placement(torch.device("cuda"), stack=stack)
        )
        for batch in batches(2, 2):
            learner.update(batch)
    finally:
        torch.use_deterministic_algorithms(False)
