"""The state of a part of training: a flat dictionary of tensors on the CPU."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]
"""What must be kept of something to go on with it exactly: tensors on the CPU by name."""


def flat(tree: Mapping[str, Mapping[str, Tensor]], **numbers: float) -> State:
    """Tensors by "branch.name", copied to the CPU, with the numbers beside them."""
    found = {f"{branch}.{name}": on_cpu(each) for branch, state in tree.items() for name, each in state.items()}
    return found | {name: torch.tensor(number) for name, number in numbers.items()}


def under(branch: str, state: State) -> State:
    """What `flat` put under a branch."""
    return {name.removeprefix(f"{branch}."): each for name, each in state.items() if name.startswith(f"{branch}.")}


def on_cpu(tensor: Tensor) -> Tensor:
    """A copy on the CPU."""
    return tensor.detach().to("cpu", copy=True).contiguous()
