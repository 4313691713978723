"""Template: a random actor and two critics. Describe your algorithm here in one line.

Paper: the authors, "The title", year, where it can be found
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from algos.agent import Adam, Agent, Batch, Config, Diagnostics, Learner
from algos.networks import TwinCritic, frozen_copy, mlp, noise_like, squared_error, td_target


# Every hyperparameter is a field with a type, a default and a comment, which `flowbench list params` shows. It can be
# set with `--set lr=1e-4`. `Config` has more fields that every algorithm has, such as gamma, batch_size and
# random_steps (the steps with random actions at the start); a field here gives one of them another default.
@dataclass(frozen=True, kw_only=True)
class TemplateConfig(Config):
    """Hyperparameters, with defaults for small tasks such as those of the suite quick."""

    hidden: int = 128  # units in each of the two hidden layers
    lr: float = 1e-3  # learning rate of actor and critics
    tau: float = 0.02  # weight of the online critics in the target critics
    temperature: float = 0.1  # weight of the policy's entropy
    batch_size: int = 128
    random_steps: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_usual(counts=["hidden"], rates=["lr"], shares=["tau"], amounts=["temperature"])


# Write it for one seed. flowbench trains several seeds at once with the same code, and it handles devices, optimisers,
# random streams, checkpoints and logging.
class Template(Agent[TemplateConfig]):
    """An actor-critic that learns from replay."""

    Config = TemplateConfig

    def __init__(self, obs_dim: int, act_dim: int, config: TemplateConfig) -> None:
        super().__init__(obs_dim, act_dim, config)
        self.actor = mlp(obs_dim, config.hidden, 2 * act_dim)  # means and log standard deviations
        self.critic = TwinCritic(lambda: mlp(obs_dim + act_dim, config.hidden, 1))  # Q1 and Q2
        self.target_critic = frozen_copy(self.critic)  # follows the critic slowly

    def optimisers(self) -> Mapping[str, Adam]:
        """The parts that are trained: names of the modules above. `update` minimises a loss for each."""
        return {"critic": Adam(self.config.lr), "actor": Adam(self.config.lr)}

    def act(self, obs: Tensor, explore: bool) -> Tensor:
        """Actions [N, act_dim] in [-1, 1] for observations [N, obs_dim]. In evaluations `explore` is False."""
        if explore:
            return self.sample(obs)[0]
        mean, _ = self.actor(obs).chunk(2, dim=-1)
        return torch.tanh(mean)

    def sample(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Random actions tanh(u) with normal u, [B, act_dim], and their log-probabilities up to a constant, [B]."""
        mean, log_std = self.actor(obs).chunk(2, dim=-1)
        log_std = log_std.clamp(-5.0, 1.0)
        noise = noise_like(obs, self.act_dim)  # standard normal, [B, act_dim]
        u = mean + log_std.exp() * noise
        log_derivative = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))  # log(1 - tanh(u)^2), of tanh at u
        return torch.tanh(u), (-0.5 * noise.square() - log_std - log_derivative).sum(-1)

    # A loss returns a number and a dictionary; its numbers become columns of train.csv. `batch` holds transitions: obs
    # [B, obs_dim], action [B, act_dim], reward [B], next_obs [B, obs_dim], and discount [B], which is 0 where the
    # episode truly ended and 1 elsewhere, also at a time limit.
    def critic_loss(self, batch: Batch) -> tuple[Tensor, Diagnostics]:
        """The squared error of both critics to r + gamma (min Q(s', a') - temperature log pi(a'|s'))."""
        with torch.no_grad():
            next_action, log_prob = self.sample(batch.next_obs)
            next_q = self.target_critic(batch.next_obs, next_action).amin(0)  # the smaller of the two values, [B]
            next_q = next_q - self.config.temperature * log_prob
            target = td_target(batch, self.config.gamma, next_q)
        q = self.critic(batch.obs, batch.action)  # [2, B]
        return squared_error(q, target), {"q": q.mean()}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Diagnostics]:
        """The actor maximises the smaller value of its actions and its entropy."""
        action, log_prob = self.sample(batch.obs)
        q = self.critic(batch.obs, action).amin(0)
        return (self.config.temperature * log_prob - q).mean(), {"entropy": -log_prob.mean()}

    def update(self, batch: Batch, learner: Learner, phase: int) -> None:
        """One update. It is called once for each environment step after the random steps."""
        learner.minimise("critic", self.critic_loss, batch)  # one step of Adam, on this part only
        learner.minimise("actor", self.actor_loss, batch)
        learner.track("target_critic", "critic", self.config.tau)  # target <- (1 - tau) target + tau online
