"""Training by CUDA graphs on a pretended GPU: the same rows as without graphs, and what graphs must not do."""

from __future__ import annotations

import dataclasses
import functools
import gc
import importlib
import re
import weakref
from functools import partial
from typing import Any

import pytest
import torch
from fake_cuda import DEVICE, FakeCuda, Misuse
from fakes import Toy, ToyConfig, Walk
from torch import nn
from training import interrupted, rows

import algos
from algos.agent import Agent, Batch
from algos.networks import TwinCritic, mlp, squared_error
from flowbench.common.rng import TorchStream
from flowbench.learners import kernels, seed_learners
from flowbench.learners.cuda_graphs import WARM_UP, Graphed
from flowbench.learners.learner import EagerLearner, invented_batch
from flowbench.learners.placement import Placement
from flowbench.learners.stacked import StackedLearner
from flowbench.train.build import build_trainer
from flowbench.train.events import Save
from flowbench.train.replay import Replay

SMALL = {"qvpo": {"denoising_steps": 2, "train_samples": 2, "eval_samples": 2, "behaviour_samples": 2}}
CPU = torch.device("cpu")
MIXED = [(name, k % 2 == 0) for k, name in enumerate(algos.names())]  # stacked or not, for tests of what both share


def options_of(name: str, stack: bool) -> dict[str, Any]:
    cls = algos.find(name).load()
    fields = {key: value for key, value in SMALL.get(name, {}).items() if key in cls.Config.__dataclass_fields__}
    config = cls.Config(hidden=8, batch_size=4, random_steps=4, **fields)
    return {"algorithm": cls, "config": config, "stack": stack}


def trainer(algorithm=Toy, config=None, seeds=(0, 1), stack=False, precision="float32"):
    return build_trainer(
        partial(Walk, 7), algorithm, config or ToyConfig(), seeds, steps=20, evaluate_every=20, evaluation_episodes=1,
        save_every=4, placement=Placement(DEVICE, stack=stack, precision=precision),
    )  # fmt: skip


def without_graphs(**options):
    """The rows of training operation by operation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seed_learners, "Graphed", lambda learner: learner)
        return rows(trainer(**options).run())


@functools.cache
def eager(name: str, stack: bool):
    return without_graphs(**options_of(name, stack))


# Rows


@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("name", algos.names())
def test_rows_equal_those_of_eager_training(name: str, stack: bool, cuda: FakeCuda) -> None:
    expected = eager(name, stack)
    assert not cuda.captured
    by_graphs = trainer(**options_of(name, stack))
    assert by_graphs.kind == ("stacked" if stack else "separate")
    assert rows(by_graphs.run()) == expected
    assert cuda.counts["replays"] > 15
    assert cuda.stream is cuda.main


@pytest.mark.parametrize("stack", [False, True])
def test_also_in_bfloat16(stack: bool, cuda: FakeCuda) -> None:
    options = options_of("sac", stack) | {"precision": "bfloat16"}
    assert rows(trainer(**options).run()) == without_graphs(**options) != eager("sac", stack)
    assert cuda.counts["replays"] > 15


@pytest.mark.parametrize(
    ("name", "stack", "at"),
    [*((name, stack, 8) for name, stack in MIXED), ("sac", False, 12), ("td3", True, 12)],  # 8: within the warm-up
)
def test_a_resumed_run_gives_the_rows_of_eager_training(name: str, stack: bool, at: int, cuda: FakeCuda) -> None:
    assert interrupted(partial(trainer, **options_of(name, stack)), at) == eager(name, stack)
    assert cuda.counts["replays"] > 0


# Learners


class Reads(Toy):
    """Its loss looks at a number, which a graph cannot do."""

    def critic_loss(self, batch):
        loss, diagnostics = super().critic_loss(batch)
        return loss * (1.0 if batch.reward.sum().item() > 0 else 2.0), diagnostics


class ReadsLater(Toy):
    """Its second loss does, when the first one has already logged its values."""

    def actor_loss(self, batch):
        loss, diagnostics = super().actor_loss(batch)
        return loss * (1.0 if batch.reward.sum().item() > 0 else 2.0), diagnostics


def batches(count: int, seeds: int = 2, size: int = 4, device: torch.device = DEVICE) -> list[Batch]:
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(seeds, size, *shape, generator=generator).to(device)

    return [
        Batch(normal(2), torch.tanh(normal(1)), normal(), normal(2), (normal() > -1).float(), normal(1)[:, 0, 0])
        for _ in range(count)
    ]


def learners(algorithm: type[Agent] = Toy, config=None, stack: bool = False, seeds=(0, 1)):
    return seed_learners.build(algorithm, 2, 1, config or ToyConfig(), list(seeds), Placement(DEVICE, stack=stack))


class Decayed(Toy):
    """Penalises matrices alone; the layers with few kernels would give it the biases of both twins as a matrix."""

    def __init__(self, obs_dim, act_dim, config):
        super().__init__(obs_dim, act_dim, config)
        self.critic = TwinCritic(lambda: mlp(obs_dim + act_dim, 4, 1))

    def critic_loss(self, batch):
        q = self.critic(batch.obs, batch.action)
        penalty = sum(parameter.square().sum() for parameter in self.critic.parameters() if parameter.ndim > 1)
        return squared_error(q, batch.reward) + penalty, {}

    def actor_loss(self, batch):
        return -self.critic(batch.obs, torch.tanh(self.actor(batch.obs))).mean(), {}


class Single(Decayed):
    """Cannot be computed in another precision."""

    def actor_loss(self, batch):
        loss, _ = super().actor_loss(batch)
        return loss + torch.ones(1, 2, dtype=torch.float32).to(batch.obs.device) @ self.actor.weight.sum(0), {}


@pytest.mark.parametrize(
    ("algorithm", "reason"), [(Decayed, "few kernels change critic/loss$"), (Single, r"double.*py:\d+ .*dtype")]
)
def test_an_algorithm_that_fewer_kernels_would_change_is_stacked_without_them(
    algorithm: type[Agent], reason: str, cuda: FakeCuda
) -> None:
    stacked, given = learners(algorithm, stack=True), batches(6)
    assert stacked.kind == "stacked"
    assert re.search(reason, stacked.note)
    alone = learners(algorithm)
    assert not alone.note
    for batch in given:
        stacked.update(batch)
        alone.update(batch)
    assert torch.allclose(weights(stacked), weights(alone), atol=1e-5)


def weights(learner) -> torch.Tensor:
    return torch.cat([value.flatten() for index in range(2) for value in learner.weights(index).values()])


@pytest.mark.parametrize("stack", [False, True])
def test_a_restore_after_capture_is_exact(stack: bool, cuda: FakeCuda) -> None:
    """The graphs continue with the restored weights, moments and sums, and those are in the memory of before."""
    learner, given = learners(stack=stack), batches(14)
    early = [learner.state(index) for index in range(2)]
    for batch in given[:6]:
        learner.update(batch)
    states = [learner.state(index) for index in range(2)]
    for batch in given[6:]:
        learner.update(batch)
    expected, means = weights(learner), [learner.means(index) for index in range(2)]
    replays = cuda.counts["replays"]
    assert replays > 5
    learner.restore(states)
    for batch in given[6:]:
        learner.update(batch)
    assert cuda.counts["replays"] > replays
    assert torch.equal(weights(learner), expected)
    assert [learner.means(index) for index in range(2)] == means
    learner.restore(early)  # which has no moments and no sums
    for batch in given:
        learner.update(batch)
    assert torch.equal(weights(learner), expected)
    assert [learner.means(index) for index in range(2)] == means


def test_a_tensor_that_a_graph_uses_must_stay_where_it_is(cuda: FakeCuda) -> None:
    """The audit itself: a parameter is replaced, or its memory is."""
    for replace in (_replace_optimiser_state, _replace_weights):
        learner = learners(seeds=[0])
        for batch in batches(6, seeds=1):
            learner.update(batch)
        replace(learner._learners[0])
        with pytest.raises(Misuse, match="from outside the graph that is gone"):
            learner.update(batch)


def _replace_optimiser_state(learner: EagerLearner) -> None:
    for state in learner._optimisers["critic"].adam.state.values():
        state["exp_avg"] = state["exp_avg"].clone()


def _replace_weights(learner: EagerLearner) -> None:
    learner.agent.actor.weight.data = learner.agent.actor.weight.data.clone()


@pytest.mark.parametrize("stack", [False, True])
def test_actions_are_still_there_after_later_replays(stack: bool, cuda: FakeCuda) -> None:
    learner = learners(stack=stack)
    given = batches(12)
    for batch in given:
        learner.update(batch)
    expected, kept = [], []
    for batch in given:
        kept.append(learner.act(batch.obs[:, 0]))
        expected.append(kept[-1].cpu())
        learner.update(batch)
    for action, copy in zip(kept, expected, strict=True):
        assert torch.equal(action.cpu(), copy)
        assert copy.isfinite().all()
    assert len(torch.stack(expected).unique()) == len(expected) * 2  # new noise each time


def test_graphed_actions_are_still_there_after_a_replay_of_an_earlier_graph(cuda: FakeCuda) -> None:
    graphed, (batch, *_) = (
        Graphed(EagerLearner(Toy(2, 1, ToyConfig()), DEVICE)),
        [Batch(*(part[0] for part in each)) for each in batches(1)],
    )
    for _ in range(WARM_UP + 2):
        graphed.update(batch)
    for _ in range(WARM_UP + 2):
        action, _ = graphed.act_with_memory(batch.obs, True, None)
    copy = action.cpu()
    graphed.update(batch)
    graphed.act_with_memory(batch.obs, True, None)
    assert torch.equal(action.cpu(), copy)


@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("algorithm", [Reads, ReadsLater])
def test_an_agent_that_reads_a_number_trains_without_a_graph_and_the_line_is_named(
    algorithm: type[Agent], stack: bool, cuda: FakeCuda, capsys
) -> None:
    assert rows(trainer(algorithm, stack=stack).run()) == without_graphs(algorithm=algorithm, stack=stack)
    said = [line for line in capsys.readouterr().err.splitlines() if "not captured" in line]
    assert len(said) == 2  # one for each seed: it cannot be stacked either
    assert re.search(r"test_cuda_graphs.py:\d+ \(return loss \* .*item\(\).*operation not permitted", said[0])
    assert cuda.stream is cuda.main
    assert cuda.counts["replays"] > 5  # of `act`


def test_a_capture_that_cannot_be_ended_leaves_stream_noise_and_means_as_they_were(cuda: FakeCuda, capsys) -> None:
    expected = without_graphs()
    cuda.fails_to_end = True
    assert rows(trainer().run()) == expected
    assert "operation failed due to a previous error" in capsys.readouterr().err
    assert cuda.stream is cuda.main
    assert not cuda.counts["replays"]


def test_warm_up_and_capture_use_one_stream(cuda: FakeCuda) -> None:
    graphed = Graphed(EagerLearner(Toy(2, 1, ToyConfig()), DEVICE))
    (batch,) = [Batch(*(part[0] for part in each)) for each in batches(1)]
    used = []
    update = graphed.learner.agent.update
    graphed.learner.agent.update = lambda *given: (used.append(cuda.stream), update(*given))
    for _ in range(WARM_UP + 2):
        graphed.update(batch)
        graphed.act_with_memory(batch.obs, True, None)
    assert len(cuda.streams) == 1
    assert {*used, *cuda.captured_on} == {*cuda.streams}
    assert len(cuda.captured) == 2


def test_a_dead_graph_is_freed_at_once(cuda: FakeCuda) -> None:
    gc.collect()
    gc.disable()
    try:
        for stack in (False, True):
            learner = learners(stack=stack)
            for batch in batches(6):
                learner.update(batch)
                learner.act(batch.obs[:, 0])
            assert all(graph() is not None for graph in cuda.captured)
            assert cuda.captured
            alive = weakref.ref(learner)
            del learner
            assert alive() is None
            assert all(graph() is None for graph in cuda.captured)
            cuda.captured.clear()
    finally:
        gc.enable()


# The host does not wait for the device


@pytest.mark.parametrize(("name", "stack"), MIXED)
def test_updates_actions_and_sampling_do_not_wait(name: str, stack: bool, cuda: FakeCuda) -> None:
    options = options_of(name, stack)
    learner = learners(options["algorithm"], options["config"], stack)
    replay = Replay([0, 1], 2, 1, options["config"], 50, DEVICE)
    one = [torch.ones(2, 2).numpy(), torch.ones(2, 1).numpy(), torch.ones(2).numpy(), torch.ones(2, 2).numpy()]
    for step in range(12):
        ended = torch.tensor([step % 5 == 4, False]).numpy()
        with cuda.waiting_is_an_error():
            replay.add(*one, ended, ended & False)
            learner.update(replay.sample(0.1))
            learner.act(torch.from_numpy(one[0]).pin_memory().to(DEVICE, non_blocking=True))
    assert cuda.counts["replays"] > 10


def test_a_batch_from_a_replay_on_the_cpu_does_not_wait_either(cuda: FakeCuda) -> None:
    made = trainer()
    on_host = Replay([0, 1], 2, 1, ToyConfig(), 50, CPU)
    made._replay = on_host
    for event in made.run():
        if isinstance(event, Save):
            with cuda.waiting_is_an_error():
                made._update(made.step)
    assert cuda.counts["replays"] > 10


@pytest.mark.parametrize("waits", [
    lambda x: x.sum().item(), lambda x: x.nonzero(), lambda x: torch.equal(x, x), lambda x: x.masked_select(x > 0),
    lambda x: x[x > 0], lambda x: x.cpu(), lambda x: x.tolist(), lambda x: bool(x.sum() > 0),
    lambda x: torch.ones(3).to(DEVICE), lambda x: torch.tensor([1.0], device=DEVICE), lambda x: x.copy_(torch.ones(3)),
])  # fmt: skip
def test_what_waits_is_known(waits, cuda: FakeCuda) -> None:
    x = torch.ones(3, device=DEVICE)
    with cuda.waiting_is_an_error(), pytest.raises(RuntimeError, match="synchronizing"):
        waits(x)
    waits(x)
    assert x.device == DEVICE


# The GPU's branches


def test_layers_compute_the_same_numbers_in_their_branches_for_a_gpu(cuda: FakeCuda) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4096, 64)
    plain = nn.Sequential(nn.Linear(64, 64), nn.Mish(), nn.Linear(64, 8))
    layers = {DEVICE: [], CPU: []}
    for device in layers:
        module = kernels.install(torch.nn.Sequential(*plain), ours=True).to(device)
        assert type(module[0]) is kernels.Linear
        assert type(module[1]) is kernels.Mish
        y = module(x.to(device))
        layers[device] = [y, *torch.autograd.grad(y.square().mean(), list(module.parameters()))]
    for gpu, cpu in zip(layers[DEVICE], layers[CPU], strict=True):
        assert gpu.device == DEVICE
        torch.testing.assert_close(gpu.cpu(), cpu, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", algos.names())
def test_an_agent_acts_the_same_on_either_device(name: str, cuda: FakeCuda) -> None:
    options = options_of(name, False)
    with TorchStream(0, CPU):
        agent = kernels.install(options["algorithm"](2, 1, options["config"]))
    obs = torch.randn(5, 2)
    actions = []
    for device in (CPU, DEVICE):
        learner = EagerLearner(agent, device)
        with TorchStream(1, CPU):
            actions.append(learner.act(obs.to(device), explore=True).cpu())
    torch.testing.assert_close(*actions, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("name", algos.names())
def test_losses_and_actions_need_no_value_and_no_other_device(
    name: str, stack: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On "meta" tensors have no values, and reading one or combining it with the CPU's raises an error."""
    optimizer = importlib.import_module("torch.optim.optimizer")
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: ["cuda", "meta"])
    meta = torch.device("meta")
    options = options_of(name, stack)
    agent = options["algorithm"](2, 1, options["config"])
    # Torch's fused Adam has no "meta" kernel for a learning rate that is a tensor.
    specs = {part: dataclasses.replace(spec, schedule=None) for part, spec in agent.optimisers().items()}
    monkeypatch.setattr(options["algorithm"], "optimisers", lambda self: specs)
    learner = StackedLearner([agent, agent], meta, few_kernels=True) if stack else EagerLearner(agent, meta)
    batch = invented_batch(agent, meta, 4)
    if stack:
        batch = Batch(*(torch.stack([part, part]) for part in batch))
    for _ in range(agent.period):
        learner.update(batch)
    assert learner.act(batch.obs, explore=True).shape == batch.action.shape
