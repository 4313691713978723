"""The numbers that an algorithm and its reference implementation are both fed, and how they are compared.

Weights, transitions and noise come from a hash of a name and an index, so that any program on any version of any
library can make them again: `tests/reference/README.md` has the recipe.
"""

import json
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from algos.agent import Batch
from flowbench.learners import kernels
from flowbench.learners.learner import EagerLearner


def reference(name):
    """What a reference implementation answered: see `tests/reference/README.md`."""
    return json.loads((Path(__file__).parents[1] / "reference" / f"{name}.json").read_text())


def uniform(name, *shape):
    """Numbers in [0, 1), float64: SplitMix64 started at the CRC-32 of `name`, shifted left by 32 bits."""
    with np.errstate(over="ignore"):
        start = np.uint64(zlib.crc32(name.encode()) << 32)
        z = start + np.arange(1, math.prod(shape) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return torch.from_numpy((z >> np.uint64(11)).astype(np.float64) / 2.0**53).reshape(shape)


def normal(name, *shape):
    """Standard normal numbers, float64, by Box and Muller's rule from two uniform ones."""
    radius = (-2.0 * (1.0 - uniform(f"{name}/radius", *shape)).log()).sqrt()
    return radius * (2.0 * math.pi * uniform(f"{name}/angle", *shape)).cos()


def weight(name, outputs, inputs, gain=1.0):
    """Weights of a linear layer, uniform, of deviation gain / sqrt(inputs)."""
    return gain * math.sqrt(3.0 / inputs) * (2.0 * uniform(name, outputs, inputs) - 1.0)


def bias(name, outputs):
    """Biases, uniform in [-0.2, 0.2)."""
    return 0.4 * uniform(name, outputs) - 0.2


def scale(name, outputs):
    """Gains of a normalising layer, uniform in [0.7, 1.3)."""
    return 0.6 * uniform(name, outputs) + 0.7


def batch_of(name, size, obs_dim, act_dim, reward_scale=1.0, progress=0.0):
    """Transitions; about a quarter ended their episode."""
    return Batch(
        obs=normal(f"{name}/obs", size, obs_dim),
        action=2.0 * uniform(f"{name}/action", size, act_dim) - 1.0,
        reward=reward_scale * normal(f"{name}/reward", size),
        next_obs=normal(f"{name}/next_obs", size, obs_dim),
        discount=(uniform(f"{name}/end", size) >= 0.25).double(),
        progress=torch.tensor(progress, dtype=torch.float64),
    )


def as_type(batch, dtype):
    return Batch(*(x.to(dtype) for x in batch))


def make_parameters(tensors, output_gain=1.0):
    """Fill `tensors`, parameters by name; the last layer of a value is `output_gain` times as strong."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            if tensor.ndim == 2:
                tensor.copy_(weight(name, *tensor.shape, gain=output_gain if len(tensor) == 1 else 1.0))
            else:
                make = scale if name.endswith("weight") else bias
                tensor.copy_(make(name, *tensor.shape))


def checksum(name, tensor):
    """One number that moves with every entry: the product with normal numbers of the tensor's own name."""
    return (tensor.detach().double() * normal(f"check/{name}", *tensor.shape)).sum().item()


class Step(NamedTuple):
    """What `Watched` notes of an optimiser's step."""

    part: str
    loss: float
    norm: float  # of the loss's gradient, before it is clipped
    gradients: list  # as the optimiser is given them
    diagnostics: dict


class Watched(EagerLearner):
    """A learner that notes the steps it takes."""

    def __init__(self, agent):
        super().__init__(kernels.install(agent), torch.device("cpu"))
        self.steps = []  # those of the last update

    def update(self, batch):
        self.steps = []
        super().update(batch)

    def minimise(self, part, loss, *args):
        parameters = list(self.agent.get_submodule(part).parameters())

        def watched(*args):
            value, diagnostics = loss(*args)
            whole.append(value.item())
            whole.append(norm(torch.autograd.grad(value, parameters, retain_graph=True)))
            return value, diagnostics

        whole = []
        diagnostics = super().minimise(part, watched, *args)
        self.steps.append(Step(part, *whole, [parameter.grad.clone() for parameter in parameters], diagnostics))
        return diagnostics


def norm(tensors):
    """The 2-norm of several tensors as one vector."""
    return math.sqrt(sum(tensor.double().square().sum().item() for tensor in tensors))


def checksums(tensors):
    """The checksum of each, and what one is compared relative to: the tensor's norm."""
    sums = [checksum(name, tensor) for name, tensor in tensors.items()]
    return torch.tensor(sums, dtype=torch.float64), torch.tensor([norm([tensor]) for tensor in tensors.values()])


def gap(found, expected, size=None):
    """The largest difference, relative to the largest expected number (or to `size`)."""
    found, expected = (torch.as_tensor(x, dtype=torch.float64).detach().flatten() for x in (found, expected))
    assert found.shape == expected.shape
    assert found.isfinite().all()
    return ((found - expected).abs() / (expected.abs().max() if size is None else size)).max().item()
