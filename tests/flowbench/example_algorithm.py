"""DDPG: a deterministic policy that climbs its critic.

Paper: Lillicrap et al., "Continuous control with deep reinforcement learning", 2015, arXiv:1509.02971

Equation numbers below are the paper's. Deviations: Gaussian exploration noise instead of an Ornstein-Uhlenbeck
process, two hidden layers of equal width, neither batch normalisation nor weight decay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from algos.agent import Adam, Agent, Batch, Config, Diagnostics, Learner
from algos.networks import frozen_copy, mlp


@dataclass(frozen=True, kw_only=True)
class DDPGConfig(Config):
    """Hyperparameters of DDPG."""

    hidden: int = 300  # units of each of the two hidden layers
    actor_lr: float = 1e-4  # learning rate of the actor
    critic_lr: float = 1e-3  # learning rate of the critic
    tau: float = 0.001  # weight of the online networks in the targets
    noise: float = 0.2  # standard deviation of the noise on actions taken
    batch_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_usual(counts=["hidden"], rates=["actor_lr", "critic_lr"], shares=["tau"], amounts=["noise"])


class DDPG(Agent[DDPGConfig]):
    """Deep deterministic policy gradient."""

    Config = DDPGConfig

    def __init__(self, obs_dim: int, act_dim: int, config: DDPGConfig) -> None:
        super().__init__(obs_dim, act_dim, config)
        self.actor = nn.Sequential(mlp(obs_dim, config.hidden, act_dim), nn.Tanh())
        self.critic = mlp(obs_dim + act_dim, config.hidden, 1)
        self.target_actor = frozen_copy(self.actor)
        self.target_critic = frozen_copy(self.critic)

    def optimisers(self) -> Mapping[str, Adam]:
        return {"critic": Adam(self.config.critic_lr), "actor": Adam(self.config.actor_lr)}

    def act(self, obs: Tensor, explore: bool) -> Tensor:
        action: Tensor = self.actor(obs)
        if explore:
            action = action + self.config.noise * torch.randn_like(action)
        return action.clamp(-1.0, 1.0)

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Diagnostics]:
        """Eq. 4, with the target networks in y (Eq. 5)."""
        with torch.no_grad():
            next_q = value(self.target_critic, batch.next_obs, self.target_actor(batch.next_obs))
            y = batch.reward + self.config.gamma * batch.discount * next_q
        q = value(self.critic, batch.obs, batch.action)
        return (q - y).square().mean(), {"q": q.mean()}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Diagnostics]:
        """Eq. 6: the gradient of Q(s, mu(s)) in the policy's parameters."""
        return -value(self.critic, batch.obs, self.actor(batch.obs)).mean(), {}

    def update(self, batch: Batch, learner: Learner, phase: int) -> None:
        """Algorithm 1, the last five lines."""
        learner.minimise("critic", self.critic_loss, batch)
        learner.minimise("actor", self.actor_loss, batch)
        learner.track("target_critic", "critic", self.config.tau)
        learner.track("target_actor", "actor", self.config.tau)


def value(critic: nn.Module, obs: Tensor, action: Tensor) -> Tensor:
    """Q(s, a) [...] for obs [..., obs_dim] and action [..., act_dim]."""
    q: Tensor = critic(torch.cat([obs, action], dim=-1))
    return q.squeeze(-1)
