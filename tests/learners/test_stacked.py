"""Seeds stacked into one computation against the same seeds trained one by one."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from fakes import Toy, ToyConfig

import algos
from algos.agent import Adam, Agent, Batch, Config
from flowbench.learners import seed_learners
from flowbench.learners.learner import EagerLearner
from flowbench.learners.means import Means
from flowbench.learners.placement import Placement
from flowbench.learners.stacked import StackedLearner

CPU = torch.device("cpu")
SEEDS, BATCH, OBS, ACT = 3, 16, 4, 2
SMALL = {
    "flowrl": [
        {},
        {"weights": "sample", "weighting": "linear", "flow_steps": 2},
        {"constraint": False},
        {"flow_steps": 3, "scheme": "euler"},
    ],
    "sac": [{}],
    "td3": [{}, {"policy_delay": 1}, {"policy_delay": 3}],
    "qvpo": [
        {"denoising_steps": 3, "train_samples": 4, "eval_samples": 3},
        {"clip_norm": 0.01, "denoising_steps": 3, "entropy_samples": 0},
    ],
}
CASES = [(name, config) for name in algos.names() for config in SMALL.get(name, [{}])]


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch):
    """Noise that is the same for every seed, however it is drawn: the k-th draw depends on k and the shape alone."""
    drawn = [0]

    def pattern(like: torch.Tensor, scale: float, shift: float) -> torch.Tensor:
        drawn[0] += 1
        count = torch.arange(math.prod(like.shape), dtype=torch.float64).reshape(like.shape)
        return (scale * torch.frac(torch.sin(12.9898 * (count + 7 * drawn[0])) * 43758.5453) + shift).to(like.dtype)

    monkeypatch.setattr(torch, "randn_like", lambda like: pattern(like, 1.5, 0.1))
    monkeypatch.setattr(torch, "rand_like", lambda like: pattern(like, 0.49, 0.5))

    def restart() -> None:
        drawn[0] = 0

    return restart


def batches(count: int, seeds: int = SEEDS, dtype: torch.dtype = torch.float32) -> list[Batch]:
    generator = torch.Generator().manual_seed(5)

    def one(k: int) -> Batch:
        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(seeds, BATCH, *shape, generator=generator, dtype=dtype)

        return Batch(
            normal(OBS), torch.tanh(normal(ACT)), normal(), normal(OBS), (normal() > -1).to(dtype),
            torch.full((seeds,), k / count, dtype=dtype),
        )  # fmt: skip

    return [one(k) for k in range(count)]


def of_seed(batch: Batch, k: int) -> Batch:
    return Batch(*(part[k] for part in batch))


@pytest.mark.parametrize("few_kernels", [False, True])
@pytest.mark.parametrize(("name", "config"), CASES)
def test_stacked_equals_separate(name: str, config: dict, few_kernels: bool, noise) -> None:
    cls = algos.find(name).load()
    settings = cls.Config(hidden=12, **config)
    torch.manual_seed(0)
    # In double precision: in single, Adam turns a gradient of rounding errors into a whole step.
    agents = [cls(OBS, ACT, settings).double() for _ in range(SEEDS)]
    separate = [EagerLearner(copy.deepcopy(agent), CPU) for agent in agents]
    stacked = StackedLearner(agents, CPU, few_kernels=few_kernels)
    for batch in batches(10, dtype=torch.float64):
        noise()
        stacked.update(batch)
        for k, learner in enumerate(separate):
            noise()
            learner.update(of_seed(batch, k))
    obs = torch.randn(SEEDS, 5, OBS, dtype=torch.float64)
    for k, learner in enumerate(separate):
        for key, value in learner.agent.state_dict().items():
            torch.testing.assert_close(stacked.weights(k)[key], value, rtol=1e-9, atol=1e-11)
        own = learner.means()
        assert stacked.logged.read(k) == pytest.approx(own, rel=1e-9, abs=1e-11)
        assert set(own) == set(stacked.logged.read(k))
        for explore in (True, False):
            noise()
            together = stacked.act(obs, explore)
            noise()
            torch.testing.assert_close(together[k], learner.act(obs[k], explore), rtol=1e-9, atol=1e-11)
    first, second = (torch.cat([v.flatten() for v in stacked.weights(k).values()]) for k in (0, 1))
    assert (first - second).abs().max() > 0.01  # not all the same seed


@pytest.mark.parametrize("name", algos.names())
def test_each_seed_draws_noise_of_its_own(name: str) -> None:
    cls = algos.find(name).load()
    torch.manual_seed(0)
    agent = cls(OBS, ACT, cls.Config(hidden=12, **SMALL.get(name, [{}])[0]))
    stacked = StackedLearner([agent, copy.deepcopy(agent)], CPU)
    chosen = stacked.act(torch.ones(2, 1, OBS), explore=True)
    assert not torch.equal(chosen[0], chosen[1])  # the same weights and observations
    one = batches(1, seeds=1)[0]
    for _ in range(2):
        stacked.update(Batch(*(part.expand(2, *part.shape[1:]) for part in one)))
    parts = [torch.cat([v.flatten() for v in stacked.weights(k).values()]) for k in (0, 1)]
    assert not torch.equal(*parts)


def test_gradients_are_clipped_seed_by_seed() -> None:
    class Clipped(Toy):
        def optimisers(self):
            return {"critic": Adam(0.1, clip_norm=0.5), "actor": Adam(0.1)}

    torch.manual_seed(0)
    stacked = StackedLearner([Clipped(OBS, ACT, ToyConfig()) for _ in range(2)], CPU)
    batch = batches(1, seeds=2)[0]
    stacked.minimise("critic", lambda batch: _scaled(stacked.agent.critic_loss(batch), batch.progress),
                     batch._replace(progress=torch.tensor([100.0, 1e-3])))  # fmt: skip
    gradients = [p.grad for p in stacked._of("critic", "parameters") if p.grad is not None]
    norms = torch.stack([g.reshape(2, -1).norm(dim=1) for g in gradients]).norm(dim=0)
    assert norms[0].item() == pytest.approx(0.5, rel=1e-4)
    assert 0.0 < norms[1].item() < 0.1


def _scaled(found, factor):
    return found[0] * factor, found[1]


def test_means_are_kept_and_cleared_seed_by_seed() -> None:
    means = Means(2)
    means.log("a", torch.tensor([1.0, 10.0]))
    means.log("a", torch.tensor([3.0, 30.0]))
    means.log("b", torch.tensor([5.0, 50.0]))
    assert means.read(0) == {"a": 2.0, "b": 5.0}
    means.clear(0)
    assert means.read(0) == {}
    means.log("a", torch.tensor([7.0, 80.0]))
    assert means.read(0) == {"a": 7.0}
    assert means.read(1) == {"a": 40.0, "b": 50.0}


def test_weights_are_copies_of_one_seed() -> None:
    cls = algos.find("td3").load()
    built = seed_learners.build(cls, OBS, ACT, cls.Config(hidden=8), [3, 9], Placement(CPU, stack=True))
    alone = seed_learners.build(cls, OBS, ACT, cls.Config(hidden=8), [9], Placement(CPU))
    assert (built.kind, alone.kind) == ("stacked", "separate")
    assert built.parameters == alone.parameters
    before = built.weights(1)
    for key, value in alone.weights(0).items():
        assert torch.equal(before[key], value)  # a seed's initial weights are its own in any group
    built.update(batches(1, seeds=2)[0])
    after = built.weights(1)
    assert any(not torch.equal(after[key], before[key]) for key in before)


class Branching(Toy):
    def actor_loss(self, batch):
        loss, diagnostics = super().actor_loss(batch)
        return (loss if loss > 0 else 2 * loss), diagnostics


def test_the_reason_for_not_stacking_names_the_line() -> None:
    built = seed_learners.build(Branching, OBS, ACT, ToyConfig(), [0, 1], Placement(CPU, stack=True))
    assert built.kind == "separate"
    assert re.search(r"cannot be stacked: .*test_stacked.py:\d+ \(return \(loss if loss > 0", built.note)
    assert seed_learners.build(Branching, OBS, ACT, ToyConfig(), [0, 1], Placement(CPU)).note == ""
    assert seed_learners.build(Toy, OBS, ACT, ToyConfig(), [0, 1], Placement(CPU, stack=True)).note == ""


def test_an_agent_that_fails_without_stacking_raises_its_own_error() -> None:
    class Broken(Agent[Config]):
        def optimisers(self):
            raise KeyError("a mistake of its own")

    with pytest.raises(KeyError, match="a mistake of its own"):
        seed_learners.build(Broken, OBS, ACT, Config(), [0, 1], Placement(CPU, stack=True))


@pytest.mark.parametrize("stack", [False, True])
def test_bfloat16_is_of_matrix_products_and_keeps_up_with_the_weights(stack: bool) -> None:
    cls = algos.find("flowrl").load()
    config = cls.Config(hidden=16, lr=0.05)
    means = {}
    for precision in ("float32", "bfloat16"):
        learner = seed_learners.build(cls, OBS, ACT, config, [0, 1], Placement(CPU, stack=stack, precision=precision))
        for batch in batches(6, seeds=2):
            learner.update(batch)
        means[precision] = learner.means(0)["critic/loss"]
        assert all(value.dtype == torch.float32 for value in learner.weights(0).values())
        assert learner.act(torch.ones(2, OBS)).shape == (2, ACT)
    assert means["bfloat16"] != means["float32"]
    assert means["bfloat16"] == pytest.approx(means["float32"], rel=0.1)


@pytest.mark.parametrize(
    ("hidden", "batch", "kind"), [(64, 256, "stacked"), (256, 64, "stacked"), (256, 256, "separate")]
)
def test_large_products_on_a_cpu_are_not_stacked(hidden: int, batch: int, kind: str) -> None:
    cls = algos.find("td3").load()
    config = cls.Config(hidden=hidden, batch_size=batch)
    assert seed_learners.build(cls, OBS, ACT, config, [0, 1], Placement(CPU, stack=True)).kind == kind
    assert seed_learners.build(cls, OBS, ACT, config, [0, 1], Placement(CPU)).kind == "separate"


class Counts(Toy):
    def __init__(self, *args):
        super().__init__(*args)
        self.register_buffer("count", torch.zeros(()))

    def update(self, batch, learner, phase):
        self.count.add_(1.0)
        super().update(batch, learner, phase)


class Clips(Toy):
    def update(self, batch, learner, phase):
        super().update(batch, learner, phase)
        with torch.no_grad():
            self.critic.weight.clamp_(-0.01, 0.01)


class ClipsData(Toy):
    def update(self, batch, learner, phase):
        super().update(batch, learner, phase)
        self.critic.weight.data.clamp_(-0.01, 0.01)


class Replaces(Toy):
    def update(self, batch, learner, phase):
        super().update(batch, learner, phase)
        self.critic.weight.data = 0.5 * self.critic.weight.data


class Closes(Toy):
    def update(self, batch, learner, phase):
        learner.minimise("critic", lambda: self.critic_loss(batch))


class Looks(Toy):
    def critic_loss(self, batch, target):
        q = self.critic(torch.cat([batch.obs, batch.action], -1)).squeeze(-1)
        return (q - target).square().mean(), {}

    def update(self, batch, learner, phase):
        target = batch.reward + self.critic.bias.detach()
        learner.minimise("critic", self.critic_loss, batch, target)


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [
        (Counts, r"update\(\) changes count, which each seed has separately"),
        (Clips, r"update\(\) changes critic.weight, which each seed has separately"),
        (ClipsData, r"update\(\) changes critic.weight, which each seed has separately"),
        (Replaces, r"update\(\) changes critic.weight, which each seed has separately"),
        (Closes, r"critic/loss of a seed depends on the batch of another"),
        (Looks, r".*test_stacked.py:\d+ \(target = batch.reward"),
    ],
)
def test_an_agent_that_stacking_would_train_wrongly_is_not_stacked(algorithm, said: str) -> None:
    built = seed_learners.build(algorithm, OBS, ACT, ToyConfig(), [0, 1], Placement(CPU, stack=True))
    assert built.kind == "separate"
    assert re.search(f"cannot be stacked: {said}", built.note)
    assert seed_learners.build(algorithm, OBS, ACT, ToyConfig(), [0, 1], Placement(CPU)).note == ""


@pytest.mark.parametrize("stack", [False, True])
def test_an_agent_without_parameters_can_be_resumed(stack: bool) -> None:
    class Random(Agent[Config]):
        def optimisers(self):
            return {}

        def act(self, obs, explore):
            return torch.rand_like(obs[..., :ACT])

        def update(self, batch, learner, phase):
            pass

    first, second = (
        seed_learners.build(Random, OBS, ACT, Config(), [0, 1], Placement(CPU, stack=stack)) for _ in range(2)
    )
    first.update(batches(1, seeds=2)[0])
    first.act(torch.ones(2, OBS))
    second.restore([first.state(index) for index in (0, 1)])
    assert torch.equal(second.act(torch.ones(2, OBS)), first.act(torch.ones(2, OBS)))
