"""SAC and TD3 of other libraries with our networks, batch size and learning rates, for single gradient steps."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import gymnasium
import numpy as np

from flowbench.bench.setting import Setting
from flowbench.common.errors import UsageError
from flowbench.plan.cells import Variant

ALGORITHMS = {"sac": "SAC", "td3": "TD3"}


@dataclass(frozen=True)
class Peer:
    """A library that has some of our algorithms."""

    key: str  # in JSON
    title: str
    module: str
    install: str

    @property
    def is_installed(self) -> bool:
        try:
            return importlib.util.find_spec(self.module) is not None
        except ValueError:  # the entry in sys.modules is not a real module
            return False


PEERS = (
    Peer("sb3", "Stable-Baselines3", "stable_baselines3", "pip install stable-baselines3"),
    Peer("sbx", "SBX", "sbx", "pip install sbx-rl"),  # Stable-Baselines in JAX
)


def installed(variants: Sequence[Variant]) -> list[Peer]:
    """The libraries to compare with; a line on standard error names each that is not installed.

    Raises UsageError if none is installed, or if they have none of the algorithms.
    """
    if not any(variant.entry.name in ALGORITHMS for variant in variants):
        names = ", ".join(variant.entry.name for variant in variants)
        raise UsageError(f"--peers: other libraries have no peer of {names} (choices: {', '.join(ALGORITHMS)})")
    found = [peer for peer in PEERS if peer.is_installed]
    if not found:
        titles = " or ".join(peer.title for peer in PEERS)
        raise UsageError(f"--peers needs {titles}; install both with: pip install -e '.[peers]'")
    for peer in PEERS:
        if peer not in found:
            print(f"flowbench: --peers: {peer.title} is not installed; {peer.install} adds it", file=sys.stderr)
    return found


def versions(peers: Sequence[Peer]) -> dict[str, str]:
    """The versions of these libraries, and of JAX if one of them uses it."""
    names = {"sb3": {"stable_baselines3": "stable_baselines3"}, "sbx": {"sbx": "sbx-rl", "jax": "jax"}}
    return {name: version(package) for peer in peers for name, package in names[peer.key].items()}


def build(
    peer: Peer, variant: Variant, obs_dim: int, act_dim: int, transitions: int, setting: Setting
) -> tuple[Callable[[], object], Any]:
    """A function that does one gradient step of the peer on its own filled replay buffer, and the peer itself.

    The step is complete when the function returns, except on a GPU with Stable-Baselines3.
    """
    from stable_baselines3.common.logger import Logger  # SBX is built on it

    c = variant.config
    same: dict[str, Any] = {
        "learning_rate": c.lr,
        "batch_size": c.batch_size,
        "gamma": c.gamma,
        "tau": c.tau,
        "buffer_size": transitions,
        "policy_kwargs": {"net_arch": [c.hidden, c.hidden]},
        "seed": 0,
    }
    if variant.entry.name == "td3":
        noises = {"target_policy_noise": c.target_noise, "target_noise_clip": c.noise_clip}
        same.update(noises, policy_delay=c.policy_delay)
    if peer.key == "sb3":
        same["device"] = str(setting.device)
    else:
        same["qf_learning_rate"] = c.lr
        _prepare_jax(setting)
    algorithm = getattr(importlib.import_module(peer.module), ALGORITHMS[variant.entry.name])
    model = algorithm("MlpPolicy", _Spaces(obs_dim, act_dim), **same)
    model.set_logger(Logger(None, []))
    fill(model.replay_buffer, obs_dim, act_dim, transitions)

    def step() -> None:
        model.train(gradient_steps=1, batch_size=c.batch_size)
        if peer.key == "sbx":
            import jax

            jax.block_until_ready((model.policy.qf_state, model.policy.actor_state, vars(model).get("ent_coef_state")))

    return step, model


def _prepare_jax(setting: Setting) -> None:
    """Make JAX compute on the device and with the number of threads of a measurement, unless it is in use already.

    Raises UsageError if JAX has no GPU.
    """
    os.environ["NPROC"] = str(setting.threads)  # XLA takes its number of threads on a CPU from it
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    if setting.device.type == "cpu":
        jax.config.update("jax_platforms", "cpu")
    elif jax.default_backend() != "gpu":
        raise UsageError("--peers: the JAX that SBX uses has no GPU; install jax[cuda12], or use --device cpu")


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
