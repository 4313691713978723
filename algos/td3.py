"""TD3: a deterministic policy with twin critics, delayed updates and smoothed targets.

Paper: Fujimoto et al., "Addressing Function Approximation Error in Actor-Critic Methods", 2018, arXiv:1802.09477
Code: github.com/sfujim/TD3

Equation numbers are the paper's. Defaults are from the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from algos.agent import Adam, Agent, Batch, Config, Diagnostics, Learner
from algos.networks import TwinCritic, frozen_copy, mlp, noise_like, squared_error, td_target


@dataclass(frozen=True, kw_only=True)
class TD3Config(Config):
    """Hyperparameters of TD3."""

    hidden: int = 256  # units of each of the two hidden layers
    lr: float = 3e-4  # learning rate of actor and critics
    tau: float = 0.005  # weight of the online networks in the targets
    policy_delay: int = 2  # critic updates per actor update
    exploration_noise: float = 0.1  # standard deviation of the noise on actions taken
    target_noise: float = 0.2  # standard deviation of the noise on the target policy's actions
    noise_clip: float = 0.5  # the target noise is clipped to +- this
    random_steps: int = 25_000

    def __post_init__(self) -> None:
        super().__post_init__()
        noises = ["exploration_noise", "target_noise", "noise_clip"]
        self.require_usual(counts=["hidden", "policy_delay"], rates=["lr"], shares=["tau"], amounts=noises)


class Actor(nn.Module):
    """The deterministic policy: obs [..., obs_dim] -> action [..., act_dim] in [-1, 1]."""

    def __init__(self, obs_dim: int, act_dim: int, hidden: int) -> None:
        super().__init__()
        self.net = mlp(obs_dim, hidden, act_dim)

    def forward(self, obs: Tensor) -> Tensor:
        return torch.tanh(self.net(obs))


class TD3(Agent[TD3Config]):
    """Twin delayed deep deterministic policy gradient."""

    Config = TD3Config

    def __init__(self, obs_dim: int, act_dim: int, config: TD3Config) -> None:
        super().__init__(obs_dim, act_dim, config)
        self.period = config.policy_delay
        self.actor = Actor(obs_dim, act_dim, config.hidden)
        self.critic = TwinCritic(lambda: mlp(obs_dim + act_dim, config.hidden, 1))
        self.target_actor = frozen_copy(self.actor)
        self.target_critic = frozen_copy(self.critic)

    def optimisers(self) -> Mapping[str, Adam]:
        return {"critic": Adam(self.config.lr), "actor": Adam(self.config.lr)}

    def act(self, obs: Tensor, explore: bool) -> Tensor:
        action: Tensor = self.actor(obs)
        if explore:
            action = action + self.config.exploration_noise * noise_like(obs, self.act_dim)
        return action.clamp(-1.0, 1.0)

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Diagnostics]:
        """Eq. 14 and Algorithm 1: clipped double Q on the smoothed target action."""
        c = self.config
        with torch.no_grad():
            action = self.target_actor(batch.next_obs)
            noise = (c.target_noise * noise_like(batch.next_obs, self.act_dim)).clamp(-c.noise_clip, c.noise_clip)
            next_q = self.target_critic(batch.next_obs, (action + noise).clamp(-1.0, 1.0)).amin(0)
            target = td_target(batch, c.gamma, next_q)
        q = self.critic(batch.obs, batch.action)
        return squared_error(q, target), {"q": q.mean()}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Diagnostics]:
        """The deterministic policy gradient (Algorithm 1, line 13), using only the first critic."""
        x = torch.cat([batch.obs, self.actor(batch.obs)], dim=-1)
        return -self.critic.q1(x).mean(), {}

    def update(self, batch: Batch, learner: Learner, phase: int) -> None:
        """Lines 8-16 of Algorithm 1."""
        learner.minimise("critic", self.critic_loss, batch)
        if phase == self.period - 1:  # every `policy_delay` updates
            learner.minimise("actor", self.actor_loss, batch)
            learner.track("target_critic", "critic", self.config.tau)
            learner.track("target_actor", "actor", self.config.tau)
