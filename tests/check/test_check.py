"""`flowbench check`: what is broken is found by the check that is for it, with its place in the file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import EXAMPLE, TINY, Toy, ToyConfig, write_algorithm
from torch import nn

from flowbench import check as checks
from flowbench.check import Finding
from flowbench.check.contract import CHECKS, batches


class WrongShape(Toy):
    def act(self, obs, explore):
        return torch.tanh(self.actor(obs)).sum(-1)


class Unbounded(Toy):
    def act(self, obs, explore):
        return self.actor(obs) if explore else torch.tanh(self.actor(obs))


class Explodes(Toy):
    def act(self, obs, explore):
        scale = torch.exp(obs.square().sum(-1, keepdim=True))
        return torch.tanh(self.actor(obs) * scale / scale)


class Counts(Toy):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.register_buffer("acted", torch.zeros(()))

    def act(self, obs, explore):
        self.acted += 1
        return super().act(obs, explore)


class Forgets(Toy):
    def update(self, batch, learner, phase):
        learner.minimise("critic", self.critic_loss, batch)


class NotFinite(Toy):
    def actor_loss(self, batch):
        loss, _ = super().actor_loss(batch)
        return loss, {"entropy": loss.detach().abs().neg().log()}


class NoGradient(Toy):
    def __init__(self, obs_dim, act_dim, config):
        super().__init__(obs_dim, act_dim, config)
        self.critic = nn.ModuleList([nn.Linear(obs_dim + act_dim, 1), nn.Linear(obs_dim + act_dim, 1)])

    def critic_loss(self, batch):
        x = torch.cat([batch.obs, batch.action], -1)
        return (self.critic[0](x) + 0.0 * self.critic[1](x) - batch.reward.unsqueeze(-1)).square().mean(), {}

    def actor_loss(self, batch):
        return torch.tanh(self.actor(batch.obs)).mean(), {}


class Untrained(Toy):
    def __init__(self, obs_dim, act_dim, config):
        super().__init__(obs_dim, act_dim, config)
        self.encoder = nn.Linear(obs_dim, obs_dim)


class MovesByHand(Toy):
    def __init__(self, obs_dim, act_dim, config):
        super().__init__(obs_dim, act_dim, config)
        self.target = nn.Linear(obs_dim, act_dim).requires_grad_(False)

    def update(self, batch, learner, phase):
        super().update(batch, learner, phase)
        self.target.weight.data.lerp_(self.actor.weight.data, 0.1)


class Strays(Toy):
    def critic_loss(self, batch):
        self.actor.bias.data.add_(0.1)
        return super().critic_loss(batch)


class OwnDelay(Toy):
    updates = 0

    def update(self, batch, learner, phase):
        learner.minimise("critic", self.critic_loss, batch)
        self.updates += 1
        if self.updates != 2:
            learner.minimise("actor", self.actor_loss, batch)


class NumpyNoise(Toy):
    def critic_loss(self, batch):
        noise = torch.from_numpy(np.random.default_rng().normal(size=batch.reward.shape)).to(batch.reward)
        return super().critic_loss(batch._replace(reward=batch.reward + noise))


class Reads(Toy):
    def critic_loss(self, batch):
        loss, diagnostics = super().critic_loss(batch)
        return loss * (1.0 + 0.0 * loss.item()), diagnostics


class OtherNoise(Toy):
    def critic_loss(self, batch):
        return super().critic_loss(batch._replace(reward=batch.reward + torch.normal(0.0 * batch.reward, 1.0)))


class SinglePrecision(Toy):
    def critic_loss(self, batch):
        return self.critic(torch.cat([batch.obs.float(), batch.action.float()], -1)).square().mean(), {}


class Remembers(Toy):
    seen = 0

    def update(self, batch, learner, phase):
        self.seen += 1
        super().update(batch._replace(reward=batch.reward / self.seen), learner, phase)


class Raises(Toy):
    def critic_loss(self, batch):
        return self.critics(batch.obs), {}


BROKEN = [
    (WrongShape, "actions fit at any sizes", "gives shape (1,), not (1, 1)", "act"),
    (Unbounded, "actions are finite and in bounds for extreme observations", "outside [-1, 1]: ", "act"),
    (Explodes, "actions are finite and in bounds for extreme observations", "that is not finite", "act"),
    (Counts, "acting changes nothing", "act changes acted", "act"),
    (Forgets, "updates work and what they log is finite", "names actor, but no update minimises a loss", "update"),
    (NotFinite, "updates work and what they log is finite", "actor/entropy is not finite", "update"),
    (NoGradient, "what is trained or tracked moves, and nothing else", "critic.1.weight (and 1 more) does", "update"),
    (Untrained, "what is trained or tracked moves, and nothing else", "encoder.", "optimisers"),
    (MovesByHand, "what is trained or tracked moves, and nothing else", "target.weight changes", "update"),
    (Strays, "what is trained or tracked moves, and nothing else", "minimise('critic') changes actor.bias", "update"),
    (OwnDelay, "the phase alone decides what an update does", "update 2 makes other calls than update 1", "update"),
    (NumpyNoise, "the same seed gives the same result", "differ in ", "update"),
    (Reads, "no value is read, for CUDA graphs", "item() cannot be called on meta tensors", "loss.item()"),
    (OtherNoise, "stacked seeds equal separate ones", "draw noise with torch.randn_like", "update"),
    (SinglePrecision, "stacked seeds equal separate ones", "in double precision, in which", "batch.obs.float()"),
    (Remembers, "resuming is exact", "attribute", None),
    (Raises, "updates work and what they log is finite", "AttributeError: 'Raises' object has", "self.critics("),
]


def test_a_sound_algorithm_passes_every_check() -> None:
    assert list(checks.check(Toy, ToyConfig())) == [Finding(what, True) for what in CHECKS]


@pytest.mark.parametrize(
    ("algorithm", "what", "reason", "where"), BROKEN, ids=lambda each: getattr(each, "__name__", "")
)
def test_what_is_broken_is_found_with_its_place(
    algorithm: type[Toy], what: str, reason: str, where: str | None
) -> None:
    found = {finding.what: finding for finding in checks.check(algorithm, ToyConfig())}
    assert not found[what].passed
    assert reason in found[what].reason
    if where is None:
        assert found[what].place.startswith(__file__)
        return
    file, line = found[what].place.rsplit(":", 1)
    text = Path(file).read_text().splitlines()[int(line) - 1]
    assert (f"def {where}(" if where in ("act", "update", "optimisers") else where) in text
    if where in algorithm.__dict__:
        assert file == __file__


def test_checks_leave_the_random_streams_and_torch_as_they_were() -> None:
    kept = torch.randn_like, torch.rand_like
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    assert all(finding.passed for finding in checks.check(Toy, ToyConfig()))
    list(checks.check(Raises, ToyConfig()))
    assert torch.equal(torch.rand(3), expected)
    assert (torch.randn_like, torch.rand_like) == kept


def test_batches_have_an_end_of_an_episode_and_differ() -> None:
    first, second = batches(Toy(3, 2, ToyConfig()), 2)
    assert first.discount.tolist() == [1.0] * 5 + [0.0]
    assert not torch.equal(first.reward, second.reward)
    assert (first.progress.item(), second.progress.item()) == (0.0, 0.5)


def test_the_command_prints_a_line_for_each_check(flowbench, monkeypatch) -> None:
    monkeypatch.setattr(checks, "SECONDS", 0.001)
    monkeypatch.setattr(checks, "COMPARED", ("td3",))
    status, out, err = flowbench("check", f"{EXAMPLE}[{TINY}]")
    assert (status, err) == (0, "")
    *lines, speed, summary = out.splitlines()
    assert lines == [f"passed  {what}" for what in CHECKS]
    assert re.fullmatch(r"ms an update, one thread, sizes 17 and 6: ddpg\S+ \d+\.\d\d; td3 \d+\.\d\d", speed)
    assert summary.endswith(f": {len(CHECKS)} of {len(CHECKS)} checks passed")


def test_the_command_names_file_and_line_of_what_failed(flowbench, tmp_path: Path) -> None:
    spec = write_algorithm(tmp_path, "Own", "raise RuntimeError('went wrong')")
    path = spec.partition(":")[0]
    number = next(n for n, text in enumerate(Path(path).read_text().splitlines(), 1) if "went wrong" in text)
    status, out, err = flowbench("check", f"{spec}[{TINY}]")
    assert (status, err) == (1, "")
    assert f"FAILED  updates work and what they log is finite: RuntimeError: went wrong ({path}:{number})\n" in out
    assert "passed  actions fit at any sizes\n" in out
    assert out.endswith(f" of {len(CHECKS)} checks passed\n")
    assert "ms an update" not in out


@pytest.mark.parametrize("algo", ["sca", "sac,td3", "no/such.py:File", "sac[hiden=3]"])
def test_a_mistake_is_one_line(flowbench, algo: str) -> None:
    status, out, err = flowbench("check", algo)
    assert (status, out, err.count("\n")) == (2, "", 1)
