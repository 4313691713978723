"""SAC: a squashed Gaussian policy that maximises return and entropy, with a learned temperature.

Paper: Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018, arXiv:1812.05905
Code: github.com/rail-berkeley/softlearning

Equation numbers are the paper's. Defaults are from its Appendix D, for networks with 256 units.
Deviations from the authors' code:
- The log-probability of the squashed action is exact: log(1 - tanh(u)^2) is computed as
  2 (log 2 + u - softplus(2u)), without a small constant inside the logarithm.
- The temperature loss is linear in log alpha (as in the authors' later code and in most implementations);
  Eq. 18 is linear in alpha. Both have the same zero.
- The critics' loss is the squared TD error without the factor 1/2 of Eq. 5, which does not change Adam's steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos.agent import Adam, Agent, Batch, Config, Diagnostics, Learner
from algos.networks import TwinCritic, frozen_copy, mlp, noise_like, squared_error, td_target


@dataclass(frozen=True, kw_only=True)
class SACConfig(Config):
    """Hyperparameters of SAC."""

    hidden: int = 256  # units of each of the two hidden layers
    lr: float = 3e-4  # learning rate of actor, critics and temperature
    tau: float = 0.005  # weight of the online critics in the targets
    initial_temperature: float = 1.0  # alpha at the start
    target_entropy_scale: float = 1.0  # the target entropy is minus this times act_dim
    random_steps: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_usual(counts=["hidden"], rates=["lr", "initial_temperature"], shares=["tau"])
        self.require("finite", math.isfinite, "target_entropy_scale")


LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0


class SquashedGaussian(nn.Module):
    """The policy: a = tanh(u), where u is normal with a state-dependent mean and diagonal deviation (Appendix C)."""

    def __init__(self, obs_dim: int, act_dim: int, hidden: int) -> None:
        super().__init__()
        self.net = mlp(obs_dim, hidden, 2 * act_dim)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of u, each [..., act_dim]."""
        mean, log_std = self.net(obs).chunk(2, dim=-1)
        return mean, F.hardtanh(log_std, LOG_STD_MIN, LOG_STD_MAX)

    def sample(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Reparameterised actions [..., act_dim] and their log-probabilities [...]."""
        mean, log_std = self(obs)
        noise = noise_like(obs, mean.shape[-1])
        u = torch.addcmul(mean, log_std.exp(), noise)
        return torch.tanh(u), squashed_log_prob(u, noise, log_std)


def squashed_log_prob(u: Tensor, noise: Tensor, log_std: Tensor) -> Tensor:
    """log pi(tanh(u)) [...] for u = mean + exp(log_std) noise, all [..., act_dim] (Eq. 26)."""
    # The constants of all dimensions are subtracted at the end.
    constants = u.shape[-1] * (0.5 * math.log(2.0 * math.pi) + 2.0 * math.log(2.0))
    minus_gaussian = torch.addcmul(log_std, noise, noise, value=0.5)
    log_derivative_of_tanh = torch.add(2.0 * u, F.softplus(u, beta=2.0), alpha=-4.0)
    return -constants - (minus_gaussian + log_derivative_of_tanh).sum(dim=-1)


class Temperature(nn.Module):
    """The entropy coefficient alpha, stored as its logarithm so that it stays positive."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self) -> Tensor:
        return self.log_alpha.exp()


class SAC(Agent[SACConfig]):
    """Soft actor-critic with automatic temperature."""

    Config = SACConfig

    def __init__(self, obs_dim: int, act_dim: int, config: SACConfig) -> None:
        super().__init__(obs_dim, act_dim, config)
        self.target_entropy = -config.target_entropy_scale * act_dim
        self.actor = SquashedGaussian(obs_dim, act_dim, config.hidden)
        self.critic = TwinCritic(lambda: mlp(obs_dim + act_dim, config.hidden, 1))
        self.target_critic = frozen_copy(self.critic)
        self.temperature = Temperature(config.initial_temperature)

    def optimisers(self) -> Mapping[str, Adam]:
        return {part: Adam(self.config.lr) for part in ("critic", "actor", "temperature")}

    def act(self, obs: Tensor, explore: bool) -> Tensor:
        mean, log_std = self.actor(obs)
        if explore:
            return torch.tanh(torch.addcmul(mean, log_std.exp(), noise_like(obs, self.act_dim)))
        return torch.tanh(mean)

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Diagnostics]:
        """Eq. 5, with the minimum of two target critics in the soft value (Eq. 3)."""
        with torch.no_grad():
            action, log_prob = self.actor.sample(batch.next_obs)
            soft_value = self.target_critic(batch.next_obs, action).amin(0) - self.temperature() * log_prob
            target = td_target(batch, self.config.gamma, soft_value)
        q = self.critic(batch.obs, batch.action)
        return squared_error(q, target), {"q": q.mean()}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Diagnostics]:
        """Eq. 9 with the minimum of the two critics."""
        action, log_prob = self.actor.sample(batch.obs)
        q = self.critic(batch.obs, action).amin(0)
        loss = (self.temperature().detach() * log_prob - q).mean()
        return loss, {"entropy": -log_prob.mean()}

    def temperature_loss(self, entropy: Tensor) -> tuple[Tensor, Diagnostics]:
        """Eq. 18: alpha falls while the policy's entropy [] is above its target."""
        loss = self.temperature.log_alpha * (entropy - self.target_entropy)
        return loss, {"alpha": self.temperature()}

    def update(self, batch: Batch, learner: Learner, phase: int) -> None:
        """The gradient steps of Algorithm 1."""
        learner.minimise("critic", self.critic_loss, batch)
        policy = learner.minimise("actor", self.actor_loss, batch)
        learner.minimise("temperature", self.temperature_loss, policy["entropy"])
        learner.track("target_critic", "critic", self.config.tau)
