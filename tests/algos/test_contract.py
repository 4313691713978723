"""Properties that every algorithm must have."""

import ast
import copy
import dataclasses
import inspect
import math
from pathlib import Path

import pytest
import torch
from handmade import OBS_DIM, VARIANTS, Recorder, act, random_batch, small_agent, small_config

import algos
from algos.agent import Agent, Config
from flowbench.check.contract import CHECKS, Subject
from flowbench.learners.learner import EagerLearner
from flowbench.plan.overrides import describe

CPU = torch.device("cpu")
NAMES = algos.names()
FILES = sorted(Path(algos.__file__).parent.glob("*.py"))

every_algorithm = pytest.mark.parametrize("name", NAMES)
every_variant = pytest.mark.parametrize("name", [*NAMES, *VARIANTS])


def train(agent, updates, seed=7):
    torch.manual_seed(seed)
    learner = EagerLearner(agent, CPU)
    for k in range(updates):
        learner.update(random_batch(seed=k))
    return learner


def snapshot(agent):
    return {name: tensor.clone() for name, tensor in agent.state_dict().items()}


def calls_of_a_period(agent):
    """The minimise and track calls of one period, and the losses with their arguments."""
    recorder = Recorder()
    for phase in range(agent.period):
        agent.update(random_batch(seed=phase), recorder, phase)
    return recorder


def tracked(agent):
    return {call[1] for call in calls_of_a_period(agent).calls if call[0] == "track"}


def tracking_phase(agent):
    """The phase of a period whose update moves the targets."""
    for phase in range(agent.period):
        recorder = Recorder()
        agent.update(random_batch(seed=phase), recorder, phase)
        if any(call[0] == "track" for call in recorder.calls):
            return phase
    raise AssertionError("no target moves")


def belongs(parameter, part):
    return parameter.startswith(f"{part}.")


@every_variant
@pytest.mark.parametrize("what", CHECKS)
def test_it_passes_what_flowbench_check_tests(name, what):
    name, settings = VARIANTS.get(name, (name, {}))
    algorithm = algos.find(name).load()
    CHECKS[what](Subject(algorithm, small_config(algorithm, **settings)))


# Actions


@every_variant
def test_exploring_twice_gives_two_actions(name):
    agent, obs = small_agent(name), torch.randn(4, OBS_DIM)
    with torch.no_grad():
        assert not torch.equal(act(agent, obs, True), act(agent, obs, True))


# Updates


@every_variant
def test_losses_are_scalars_that_need_a_gradient_and_diagnostics_are_tensors(name):
    agent = small_agent(name)
    for _, loss, args in calls_of_a_period(agent).losses:
        value, diagnostics = getattr(agent, loss)(*args)
        assert value.shape == ()
        assert value.requires_grad
        assert all(isinstance(tensor, torch.Tensor) for tensor in diagnostics.values())


@every_variant
def test_every_parameter_is_either_of_one_trained_part_or_of_one_frozen_target(name):
    agent = small_agent(name)
    parts, targets = list(agent.optimisers()), tracked(agent)
    assert targets
    for key, parameter in agent.named_parameters():
        assert sum(belongs(key, part) for part in [*parts, *targets]) == 1, key
        assert parameter.requires_grad == any(belongs(key, part) for part in parts), key


@every_variant
def test_targets_start_as_copies_of_what_they_track(name):
    agent = small_agent(name)
    for call in calls_of_a_period(agent).calls:
        if call[0] == "track":
            target, online = agent.get_submodule(call[1]), agent.get_submodule(call[2])
            pairs = list(zip(target.parameters(), online.parameters(), strict=True))
            assert all(torch.equal(a, b) and a is not b for a, b in pairs)
            assert call[3] == agent.config.tau


@every_variant
def test_a_tracked_target_moves_by_tau_towards_the_updated_network(name):
    agent = small_agent(name, tau=0.25)
    with torch.no_grad():  # the targets must not start where the online networks are
        for target in tracked(agent):
            for parameter in agent.get_submodule(target).parameters():
                parameter.add_(1.0)
    before = snapshot(agent)
    pairs = {call[1]: call[2] for call in calls_of_a_period(agent).calls if call[0] == "track"}
    train(agent, 1 + tracking_phase(agent))
    after = agent.state_dict()
    for target, online in pairs.items():
        for key, _ in agent.get_submodule(target).named_parameters():
            expected = 0.75 * before[f"{target}.{key}"] + 0.25 * after[f"{online}.{key}"]
            torch.testing.assert_close(after[f"{target}.{key}"], expected, rtol=1e-5, atol=1e-6)


@every_variant
def test_a_step_on_one_part_computes_no_gradient_for_another(name):
    agent = small_agent(name)
    for part, loss, args in calls_of_a_period(agent).losses:
        twin = copy.deepcopy(agent)
        learner = EagerLearner(twin, CPU)
        computed = []
        for key, parameter in twin.named_parameters():
            if parameter.requires_grad:
                parameter.register_hook(lambda grad, key=key, computed=computed: computed.append(key))
        before = snapshot(twin)
        learner.minimise(part, getattr(twin, loss), *args)
        inside = {key for key, _ in twin.named_parameters() if belongs(key, part)}
        assert {key for key, parameter in twin.named_parameters() if parameter.grad is not None} == inside
        assert set(computed) <= inside
        assert {key for key, tensor in twin.named_parameters() if not torch.equal(before[key], tensor)} <= inside


@every_variant
def test_another_stream_of_noise_gives_other_updates(name):
    one, two = small_agent(name), small_agent(name)
    train(one, one.period, seed=1)
    train(two, two.period, seed=2)
    assert not same_weights(one, two)


@every_variant
def test_a_deep_copy_trains_like_the_original_and_apart_from_it(name):
    agent = small_agent(name)
    twin = copy.deepcopy(agent)
    before = snapshot(agent)
    train(twin, agent.period)
    assert all(torch.equal(before[key], tensor) for key, tensor in agent.state_dict().items())
    train(agent, agent.period)
    assert same_weights(agent, twin)


def same_weights(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


# What training may do to an agent: change its precision, capture an update in a graph


@every_variant
def test_an_agent_in_double_precision_stays_in_it(name):
    agent = small_agent(name).double()
    recorder = Recorder()
    for phase in range(agent.period):
        agent.update(random_batch(dtype=torch.float64), recorder, phase)
    for _, loss, args in recorder.losses:
        value, diagnostics = getattr(agent, loss)(*args)
        assert value.dtype == torch.float64
        assert all(tensor.dtype == torch.float64 for tensor in diagnostics.values())
    for explore in (True, False):
        assert act(agent, torch.randn(2, OBS_DIM, dtype=torch.float64), explore).dtype == torch.float64
    learner = EagerLearner(agent, CPU)
    for _ in range(agent.period):
        learner.update(random_batch(dtype=torch.float64))
    assert all(parameter.dtype == torch.float64 for parameter in agent.parameters())


SYNCS = {"item", "cpu", "numpy", "tolist", "nonzero", "masked_select", "synchronize"}
CONVERSIONS = {"float", "int", "bool", "print"}


def functions_outside_constructors(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name != "__init__":
            yield node


@pytest.mark.parametrize("file", [file for file in FILES if file.name != "registry.py"], ids=lambda file: file.stem)
def test_no_function_waits_for_the_device(file):
    for function in functions_outside_constructors(ast.parse(file.read_text())):
        for node in ast.walk(function):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                banned = SYNCS if isinstance(node.func, ast.Attribute) else CONVERSIONS
                assert called not in banned, f"{file.name}:{node.lineno} calls {called}"


# Configuration and documentation


@every_algorithm
def test_the_config_is_a_frozen_keyword_only_dataclass(name):
    config = algos.find(name).load().Config
    assert issubclass(config, Config)
    assert dataclasses.is_dataclass(config)
    assert all(field.kw_only for field in dataclasses.fields(config))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().gamma = 0.5
    with pytest.raises(TypeError):
        config(0.5)
    assert hash(config()) == hash(config())
    assert config() == config()


@every_algorithm
def test_every_hyperparameter_has_a_comment_and_a_default(name):
    described = describe(algos.find(name).load())
    assert {field.name for field in described} >= {field.name for field in dataclasses.fields(Config)}
    for field in described:
        assert field.comment, field.name
        assert "MISSING" not in field.default, field.name


AT_LEAST_ONE = [0, -1]
RATE = [0.0, -1.0, math.inf, math.nan]
SHARE = [0.0, -0.1, 1.5, math.nan]
BAD = {
    "gamma": [-0.1, 1.5, math.nan],
    "batch_size": AT_LEAST_ONE,
    "replay_size": AT_LEAST_ONE,
    "recent_share": [-0.1, 1.5, math.nan],
    "recent_window": AT_LEAST_ONE,
    "random_steps": [-1],
    "updates_per_step": AT_LEAST_ONE,
    "hidden": AT_LEAST_ONE,
    "actor_hidden": AT_LEAST_ONE,
    "blocks": AT_LEAST_ONE,
    "longest_hold": AT_LEAST_ONE,
    "atoms": [1, 0],
    "max_return": RATE,
    "target_std": RATE,
    "lr": RATE,
    "actor_lr": RATE,
    "critic_lr": RATE,
    "adam_eps": RATE,
    "clip_norm": RATE,
    "tau": SHARE,
    "policy_delay": AT_LEAST_ONE,
    "exploration_noise": [-0.1, math.nan],
    "target_noise": [-0.1, math.nan],
    "noise_clip": [-0.1, math.nan],
    "initial_temperature": RATE,
    "target_entropy_scale": [math.nan],
    "flow_steps": AT_LEAST_ONE,
    "lagrange": [-0.1, math.nan, math.inf],
    "expectile": [0.0, 1.0, -0.5, 1.5, math.nan],
    "denoising_steps": AT_LEAST_ONE,
    "train_samples": AT_LEAST_ONE,
    "behaviour_samples": AT_LEAST_ONE,
    "target_samples": AT_LEAST_ONE,
    "eval_samples": AT_LEAST_ONE,
    "entropy_samples": [-1],
    "entropy_weight": [-0.1, math.nan, math.inf],
    "entropy_weight_min": [-0.1, math.nan],
}
BAD_OF_EACH = [
    (name, field.name, value)
    for name in NAMES
    for field in dataclasses.fields(algos.find(name).load().Config)
    for value in BAD.get(field.name, [])
]


@pytest.mark.parametrize(("name", "field", "value"), BAD_OF_EACH)
def test_a_bad_value_is_rejected_by_name(name, field, value):
    with pytest.raises(ValueError, match=rf"^{field} must be .*, got {value}$"):
        algos.find(name).load().Config(**{field: value})


@every_algorithm
@pytest.mark.parametrize("edge", [{"gamma": 0.0}, {"gamma": 1.0}, {"tau": 1.0}, {"recent_share": 1.0}])
def test_values_at_the_edge_of_their_range_are_taken(name, edge):
    assert algos.find(name).load().Config(**edge)


@every_algorithm
def test_the_module_says_what_it_is_and_where_it_comes_from(name):
    entry = algos.find(name)
    summary, paper = entry.about()
    assert summary.endswith(".")
    assert len(summary) <= 120
    text = inspect.getdoc(inspect.getmodule(entry.load()))
    assert text.startswith(f"{summary}\n\n")
    assert "et al." in paper
    assert "arXiv:" in paper


@every_algorithm
def test_the_losses_and_the_update_are_documented(name):
    algorithm = algos.find(name).load()
    assert issubclass(algorithm, Agent)
    agent = small_agent(name)
    for method in ["update", *{loss for _, loss, _ in calls_of_a_period(agent).losses}]:
        assert getattr(algorithm, method).__doc__, method


def test_an_agent_without_methods_says_what_is_missing():
    agent = Agent(1, 1, Config())
    assert agent.period == 1
    for call in (agent.optimisers, lambda: agent.act(None, True), lambda: agent.update(None, None, 0)):
        with pytest.raises(NotImplementedError):
            call()
