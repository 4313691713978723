"""FlashSAC against its authors' released code, by numbers recorded from it: see `tests/reference/README.md`."""

import pytest
import torch
from parity import Watched, as_type, batch_of, checksums, gap, make_parameters, normal, reference, uniform

from algos.agent import Transition
from algos.flashsac import FlashSAC, FlashSACConfig
from algos.networks import evaluation_mode

RECORD = reference("flashsac")
OBS_DIM, ACT_DIM, BATCH = (RECORD["sizes"][key] for key in ("obs_dim", "act_dim", "batch"))
SIZES = {key: RECORD["sizes"][key] for key in ("hidden", "actor_hidden", "blocks", "atoms")}
REWARDS = 20
TYPES = {"double": torch.float64, "single": torch.float32}

# The largest differences allowed, about ten times those found.
DOUBLE, SINGLE = 1e-11, 5e-5


@pytest.fixture
def make_agent():
    """Builds an agent of a precision with made weights, which has observed the made rewards."""
    before = torch.get_default_dtype()

    def make(dtype=torch.float64):
        torch.set_default_dtype(dtype)
        agent = FlashSAC(OBS_DIM, ACT_DIM, FlashSACConfig(**SIZES))
        named = dict(agent.named_parameters())
        make_parameters({name: named[name] for name in RECORD["tensors"] if name != "temperature.log_alpha"})
        for _ in observed(agent, dtype):
            pass
        return agent

    yield make
    torch.set_default_dtype(before)


def observed(agent, dtype):
    """Yields after every made transition that the agent observes."""
    nothing = torch.zeros(1)
    ended = uniform("flashsac/ends", REWARDS) < 0.2
    for reward, end in zip(normal("flashsac/rewards", REWARDS).to(dtype), ended.to(dtype), strict=True):
        agent.observe(Transition(nothing, nothing, reward, nothing, 1.0 - end, end))
        yield


def update(learner, precision, k, draws):
    """Update `k` on its own transitions and noise."""
    name, progress = f"flashsac/{k}", RECORD[precision]["updates"][k]["progress"]
    if k % 2 == 0:
        draws.normal.append(normal(f"{name}/policy", 2 * BATCH, ACT_DIM))
    draws.normal.append(normal(f"{name}/next", BATCH, ACT_DIM))
    learner.update(as_type(batch_of(name, BATCH, OBS_DIM, ACT_DIM, progress=progress), TYPES[precision]))


def test_the_record_is_of_every_parameter(make_agent):
    assert {name for name, _ in make_agent().named_parameters()} == set(RECORD["tensors"])


def test_the_statistics_of_rewards_are_the_references_after_every_transition(make_agent):
    agent = make_agent()
    agent.reward_scale = type(agent.reward_scale)()
    scale = agent.reward_scale
    for _, expected in zip(observed(agent, torch.float64), RECORD["double"]["reward_statistics"], strict=True):
        assert gap(torch.stack([scale.total, scale.largest, scale.mean, scale.var]), expected) <= DOUBLE


@pytest.mark.parametrize(("precision", "limit"), [("double", DOUBLE), ("single", SINGLE)])
def test_updates_are_the_references(make_agent, draws, precision, limit):
    """Losses, gradients, parameters and running statistics after each of four updates."""
    agent = make_agent(TYPES[precision])
    learner = Watched(agent)
    tensors = {**dict(agent.named_parameters()), **dict(agent.named_buffers())}
    for k, expected in enumerate(RECORD[precision]["updates"]):
        update(learner, precision, k, draws)
        steps = {step.part: step for step in learner.steps}
        assert list(steps) == (["actor", "temperature", "critic"] if k % 2 == 0 else ["critic"])
        for part, step in steps.items():
            assert gap(step.loss, expected["loss"][part]) <= limit, (k, part)
            assert gap(step.norm, expected["gradient_norm"][part]) <= limit, (k, part)
        if k % 2 == 0:
            assert gap(steps["actor"].diagnostics["entropy"], expected["entropy"]) <= limit
        # The targets' running statistics are never used; in ours they are copies of the critics'.
        sums = dict(zip(RECORD["tensors"], expected["checksum"], strict=True))
        sums |= {
            name: each
            for name, each in zip(RECORD["statistics"], expected["statistics"], strict=True)
            if not name.startswith("target_critic")
        }
        found, sizes = checksums({name: tensors[name] for name in sums})
        for name, one, total, size in zip(sums, found, sums.values(), sizes, strict=True):
            assert abs(one - total) <= limit * size, (k, name)


def test_actions_have_the_references_distribution_after_the_updates(make_agent, draws):
    agent = make_agent()
    learner = Watched(agent)
    for k in range(len(RECORD["double"]["updates"])):
        update(learner, "double", k, draws)
    with torch.no_grad(), evaluation_mode(agent):
        mean, log_std = agent.actor(normal("flashsac/act/obs", 4, OBS_DIM))
    assert gap(mean, RECORD["double"]["mean"]) <= DOUBLE
    assert gap(log_std.exp(), RECORD["double"]["std"]) <= DOUBLE


def test_noise_is_held_as_long_as_in_the_reference(make_agent):
    assert gap(make_agent().hold_cdf, RECORD["hold_cdf"]) <= 1e-6
