"""FlowRL against its authors' released code, by numbers recorded from it: see `tests/reference/README.md`."""

import pytest
import torch
from parity import (
    Watched,
    as_type,
    batch_of,
    checksums,
    gap,
    make_parameters,
    normal,
    reference,
    uniform,
)

from algos.flowrl import FlowRL, FlowRLConfig

RECORD = reference("flowrl")
OBS_DIM, ACT_DIM, HIDDEN, BATCH = (RECORD["sizes"][key] for key in ("obs_dim", "act_dim", "hidden", "batch"))

# The largest differences allowed, about ten times those found. In double precision the limit is the record's thirteen
# digits; in single precision it is the rounding of the last layer's sums, strong as that is here.
DOUBLE, SINGLE = 1e-11, 5e-6


@pytest.fixture
def make_agent():
    """Builds an agent of a precision with made weights."""
    before = torch.get_default_dtype()

    def make(dtype=torch.float64, **settings):
        torch.set_default_dtype(dtype)
        agent = FlowRL(OBS_DIM, ACT_DIM, FlowRLConfig(hidden=HIDDEN, **settings))
        make_parameters(dict(agent.named_parameters()), RECORD["output_gain"])
        return agent

    yield make
    torch.set_default_dtype(before)


def recording(agent, *methods):
    """The answers that `methods` of the agent give from now on, by name."""
    answers = {name: [] for name in methods}
    for name in methods:
        original = getattr(agent, name)
        setattr(agent, name, lambda *args, f=original, to=answers[name]: to.append(f(*args)) or to[-1])
    return answers


def update(learner, k, draws):
    """Update `k` on its own transitions and noise."""
    draws.normal.append(normal(f"flowrl/{k}/next", BATCH, ACT_DIM))
    if k % 2 == 0:
        draws.normal += [normal(f"flowrl/{k}/{which}", BATCH, ACT_DIM) for which in ("policy", "start")]
        draws.uniform.append(uniform(f"flowrl/{k}/time", BATCH, 1))
    dtype = next(learner.agent.parameters()).dtype
    learner.update(as_type(batch_of(f"flowrl/{k}", BATCH, OBS_DIM, ACT_DIM), dtype))


def test_the_record_is_of_every_parameter(make_agent):
    assert RECORD["tensors"] == [name for name, _ in make_agent().named_parameters()]


def test_five_updates_are_the_references(make_agent, draws):
    agent = make_agent()
    learner, answers = Watched(agent), recording(agent, "flow", "weight")
    for k, expected in enumerate(RECORD["double"]["updates"]):
        for given in answers.values():
            given.clear()
        update(learner, k, draws)
        steps = {step.part: step for step in learner.steps}
        assert list(steps) == list(expected["loss"])
        for part, loss in expected["loss"].items():
            assert gap(steps[part].loss, loss) <= DOUBLE, f"loss of {part} in update {k}"
            assert gap(steps[part].norm, expected["gradient_norm"][part]) <= DOUBLE, f"gradient of {part} in update {k}"
        found = {"next_action": answers["flow"][0]}
        found["q_behaviour"] = steps["behaviour_critic"].diagnostics["q_behaviour"]
        if k % 2 == 0:
            found |= {"action": answers["flow"][1], "weight": answers["weight"][0] * torch.ones(BATCH)}
            found["constraint"] = steps["velocity"].diagnostics["constraint"]
            found["flow_matching"] = found["constraint"] / found["weight"].mean()
        for name, tensor in found.items():
            assert gap(tensor, expected[name]) <= DOUBLE, f"{name} in update {k}"
        assert set(expected) - set(found) == {"loss", "gradient_norm", "checksum"}
        sums, sizes = checksums(dict(agent.named_parameters()))
        assert gap(sums, expected["checksum"], sizes) <= DOUBLE, f"parameters after update {k}"
    assert k == 4


def test_the_record_meets_every_case():
    """Both ends of the weights and what is between, a policy trained at every second update, and ended episodes."""
    updates = RECORD["double"]["updates"]
    assert ["velocity" in update["loss"] for update in updates] == [True, False, True, False, True]
    weights = torch.tensor([w for update in updates[::2] for w in update["weight"]])
    assert (weights == 1.0).sum() >= 5
    assert (weights == 1e-3).sum() >= 2
    assert ((weights > 1e-3) & (weights < 1.0)).sum() >= 10
    ends = [(1.0 - batch_of(f"flowrl/{k}", BATCH, OBS_DIM, ACT_DIM).discount).sum().item() for k in range(5)]
    assert ends == [7, 0, 3, 3, 7]


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("when", ["before", "after"])
def test_sampled_actions_are_the_references(make_agent, draws, when, steps):
    """Of the weights as made, and of those that five updates of one flow step a sample have trained."""
    agent = make_agent()
    if when == "after":
        learner = Watched(agent)
        for k in range(5):
            update(learner, k, draws)
    sampler = make_agent(flow_steps=steps)
    sampler.load_state_dict(agent.state_dict())
    noise = 1.5 * normal("flowrl/act/noise", BATCH, ACT_DIM)
    assert (noise.abs() > 1.0).any()
    for explore in (True, False):
        draws.normal.append(noise)
        action = sampler.act(normal("flowrl/act/obs", BATCH, OBS_DIM), explore)
        assert gap(action, RECORD["double"]["actions"][when][str(steps)]) <= DOUBLE


def test_single_precision_is_the_references_to_its_rounding(make_agent, draws):
    agent = make_agent(torch.float32)
    learner = Watched(agent)
    for k, expected in enumerate(RECORD["single"]["updates"]):
        update(learner, k, draws)
        for step in learner.steps:
            assert gap(step.loss, expected["loss"][step.part]) <= SINGLE
            assert gap(step.norm, expected["gradient_norm"][step.part]) <= SINGLE
    sums, sizes = checksums(dict(agent.named_parameters()))
    assert gap(sums, expected["checksum"], sizes) <= SINGLE
