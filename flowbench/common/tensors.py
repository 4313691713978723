"""State of training: flat dictionaries of tensors on the CPU."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]
"""Everything that is needed to resume an object exactly: tensors on the CPU, by name."""


def flat(tree: Mapping[str, Mapping[str, Tensor]], **numbers: float) -> State:
    """The tensors as "branch.name", copied to the CPU, and the numbers as tensors."""
    found = {f"{branch}.{name}": on_cpu(each) for branch, state in tree.items() for name, each in state.items()}
    return found | {name: torch.tensor(number) for name, number in numbers.items()}


def under(branch: str, state: State) -> State:
    """The tensors of one branch of a `flat` dictionary."""
    return {name.removeprefix(f"{branch}."): each for name, each in state.items() if name.startswith(f"{branch}.")}


def on_cpu(tensor: Tensor) -> Tensor:
    """A copy on the CPU."""
    return tensor.detach().to("cpu", copy=True).contiguous()
