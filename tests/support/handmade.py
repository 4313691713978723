"""What the tests of the algorithms share: small agents, batches, stub networks, noise of known value."""

import dataclasses

import torch
from torch import nn

import algos
from algos.agent import Batch

OBS_DIM, ACT_DIM = 3, 2

SMALL = {
    "hidden": 8,
    "actor_hidden": 8,
    "atoms": 11,
    "batch_size": 5,
    "denoising_steps": 3,
    "train_samples": 4,
    "behaviour_samples": 2,
    "target_samples": 2,
    "eval_samples": 3,
    "entropy_samples": 2,
}

VARIANTS = {
    "flowrl without constraint": ("flowrl", {"constraint": False}),
    "flowrl as the paper": ("flowrl", {"weights": "sample", "weighting": "linear", "tau": 0.005}),
    "flowrl with three euler steps": ("flowrl", {"flow_steps": 3, "scheme": "euler"}),
    "td3 without delay": ("td3", {"policy_delay": 1}),
    "td3 with a delay of three": ("td3", {"policy_delay": 3}),
    "qvpo without entropy": ("qvpo", {"entropy_samples": 0}),
}


def small_config(algorithm, **values):
    """A configuration that trains in milliseconds; `values` go before."""
    known = {field.name for field in dataclasses.fields(algorithm.Config)}
    return algorithm.Config(**{name: value for name, value in SMALL.items() if name in known} | values)


def small_agent(name, seed=0, **values):
    """An agent of an algorithm, or of one of the `VARIANTS`."""
    name, settings = VARIANTS.get(name, (name, {}))
    values = settings | values
    torch.manual_seed(seed)
    algorithm = algos.find(name).load()
    return algorithm(OBS_DIM, ACT_DIM, small_config(algorithm, **values))


def act(agent, obs, explore):
    """Actions as at the start of episodes, in evaluation mode."""
    agent.eval()
    memory = agent.memory(obs)
    action = agent.act(obs, explore) if memory is None else agent.act(obs, explore, memory)[0]
    agent.train()
    return action


def random_batch(n=5, seed=0, progress=0.25, dtype=torch.float32):
    """Transitions of which the last ended its episode."""
    generator = torch.Generator().manual_seed(seed)
    discount = torch.ones(n, dtype=dtype)
    discount[-1] = 0.0
    return Batch(
        obs=torch.randn(n, OBS_DIM, generator=generator, dtype=dtype),
        action=torch.rand(n, ACT_DIM, generator=generator, dtype=dtype) * 2 - 1,
        reward=torch.randn(n, generator=generator, dtype=dtype),
        next_obs=torch.randn(n, OBS_DIM, generator=generator, dtype=dtype),
        discount=discount,
        progress=torch.tensor(progress, dtype=dtype),
    )


class Stub(nn.Module):
    """A network that answers with `function(*args)` and remembers what it was asked."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.asked = []

    def forward(self, *args):
        self.asked.append(args)
        return self.function(*args)


def constant(values):
    """A stub that always answers `values`."""
    return Stub(lambda *args: torch.as_tensor(values, dtype=torch.float32))


def never(*args):
    raise AssertionError("this network has no part in it")


class Recorder:
    """A learner that takes no step: it evaluates the losses and notes the order of the calls."""

    def __init__(self):
        self.calls = []
        self.losses = []  # (part, name of the loss, its arguments)

    def minimise(self, part, loss, *args):
        _, diagnostics = loss(*args)
        self.calls.append(("minimise", part))
        self.losses.append((part, loss.__name__, args))
        return {name: tensor.detach() for name, tensor in diagnostics.items()}

    def track(self, target, online, tau):
        self.calls.append(("track", target, online, tau))


class Draws:
    """Random numbers of known value, each broadcast to the shape that is asked for, first in, first out."""

    def __init__(self):
        self.normal = []
        self.uniform = []

    def randn_like(self, x):
        return self._next(self.normal, x)

    def rand_like(self, x):
        return self._next(self.uniform, x)

    def _next(self, queue, x):
        assert queue, "more random numbers are drawn than expected"
        return torch.as_tensor(queue.pop(0), dtype=x.dtype).expand(x.shape)
