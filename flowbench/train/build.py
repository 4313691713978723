"""Builds an agent."""

from __future__ import annotations

from typing import Any

import algos
from algos.agent import Agent
from flowbench.plan import overrides


def build_agent(name: str, target: str, config: dict[str, Any], obs_dim: int, act_dim: int) -> Agent[Any]:
    """An agent of the algorithm, in whatever process it is wanted."""
    algorithm = algos.Entry(name, target).load()
    return algorithm(obs_dim, act_dim, overrides.restore(algorithm.Config, config))
