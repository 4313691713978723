"""Stable-Baselines3's SAC and TD3 with our networks, batch size and learning rates, for single gradient steps."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import gymnasium
import numpy as np

from flowbench.bench.setting import Setting
from flowbench.common.errors import UsageError
from flowbench.plan.cells import Variant

PEERS = {"sac": "SAC", "td3": "TD3"}


def name(variant: Variant) -> str | None:
    """The name of an algorithm's peer in a report; None if it has no peer."""
    return f"sb3-{variant.entry.name}" if variant.entry.name in PEERS else None


def require(variants: list[Variant]) -> dict[str, str]:
    """The version of the peer's library. Raises UsageError if it is not installed or no algorithm has a peer."""
    if not any(map(name, variants)):
        names = ", ".join(variant.entry.name for variant in variants)
        raise UsageError(f"--peers: Stable-Baselines3 has no peer of {names} (choices: {', '.join(PEERS)})")
    try:
        found = importlib.util.find_spec("stable_baselines3")
    except ValueError:  # the entry in sys.modules is not a real module
        found = None
    if found is None:
        raise UsageError("--peers needs Stable-Baselines3; install it with: pip install -e '.[peers]'")
    return {"stable_baselines3": version("stable_baselines3")}


def build(
    variant: Variant, obs_dim: int, act_dim: int, transitions: int, setting: Setting
) -> tuple[Callable[[], object], Any]:
    """A function that does one gradient step of the peer on its own filled replay buffer, and the peer itself."""
    import stable_baselines3

    c = variant.config
    same: dict[str, Any] = {
        "learning_rate": c.lr,
        "batch_size": c.batch_size,
        "gamma": c.gamma,
        "tau": c.tau,
        "buffer_size": transitions,
        "policy_kwargs": {"net_arch": [c.hidden, c.hidden]},
        "device": str(setting.device),
        "seed": 0,
    }
    if variant.entry.name == "td3":
        noises = {"target_policy_noise": c.target_noise, "target_noise_clip": c.noise_clip}
        same.update(noises, policy_delay=c.policy_delay)
    model = getattr(stable_baselines3, PEERS[variant.entry.name])("MlpPolicy", _Spaces(obs_dim, act_dim), **same)
    model.set_logger(stable_baselines3.common.logger.Logger(None, []))
    fill(model.replay_buffer, obs_dim, act_dim, transitions)
    return lambda: model.train(gradient_steps=1, batch_size=c.batch_size), model


def fill(buffer: Any, obs_dim: int, act_dim: int, transitions: int) -> None:
    """Fill the peer's replay buffer with random transitions."""
    rng = np.random.default_rng(0)
    for _ in range(transitions):
        obs, next_obs = rng.standard_normal((2, 1, obs_dim), dtype=np.float32)
        action = rng.uniform(-1.0, 1.0, (1, act_dim)).astype(np.float32)
        buffer.add(obs, next_obs, action, np.ones(1), np.zeros(1), [{}])


class _Spaces(gymnasium.Env[np.ndarray, np.ndarray]):
    """An environment that only defines its spaces."""

    def __init__(self, obs_dim: int, act_dim: int) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (obs_dim,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (act_dim,), np.float32)
