"""DDPG: a deterministic policy that is trained with the gradient of its critic.

Paper: Lillicrap et al., "Continuous control with deep reinforcement learning", 2015, arXiv:1509.02971
"""

from dataclasses import dataclass

import torch
from torch import nn

from algos.agent import Adam, Agent, Config
from algos.networks import frozen_copy, mlp


@dataclass(frozen=True, kw_only=True)
class DDPGConfig(Config):
    hidden: int = 300  # units in each of the two hidden layers
    lr: float = 1e-3  # learning rate of the actor and the critic
    tau: float = 0.001  # weight of the online networks in the target networks
    noise: float = 0.2  # standard deviation of the exploration noise
    random_steps: int = 500  # steps with random actions before learning starts


class DDPG(Agent[DDPGConfig]):
    Config = DDPGConfig

    def __init__(self, obs_dim, act_dim, config):
        super().__init__(obs_dim, act_dim, config)
        self.actor = nn.Sequential(mlp(obs_dim, config.hidden, act_dim), nn.Tanh())
        self.critic = mlp(obs_dim + act_dim, config.hidden, 1)
        self.target_actor, self.target_critic = frozen_copy(self.actor), frozen_copy(self.critic)

    def optimisers(self):
        return {"critic": Adam(self.config.lr), "actor": Adam(self.config.lr)}

    def act(self, obs, explore):
        action = self.actor(obs)
        if explore:
            action = action + self.config.noise * torch.randn_like(action)
        return action.clamp(-1.0, 1.0)

    def critic_loss(self, batch):  # Eq. 4 and 5
        with torch.no_grad():
            next_q = value(self.target_critic, batch.next_obs, self.target_actor(batch.next_obs))
            y = batch.reward + self.config.gamma * batch.discount * next_q
        q = value(self.critic, batch.obs, batch.action)
        return (q - y).square().mean(), {"q": q.mean()}

    def actor_loss(self, batch):  # Eq. 6
        return -value(self.critic, batch.obs, self.actor(batch.obs)).mean(), {}

    def update(self, batch, learner, phase):  # Algorithm 1
        learner.minimise("critic", self.critic_loss, batch)
        learner.minimise("actor", self.actor_loss, batch)
        learner.track("target_critic", "critic", self.config.tau)
        learner.track("target_actor", "actor", self.config.tau)


def value(critic, obs, action):
    return critic(torch.cat([obs, action], dim=-1)).squeeze(-1)
