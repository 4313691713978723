"""QVPO: a diffusion policy that is trained on its own best samples, weighted by their advantage.

Paper: Ding et al., "Diffusion-based Reinforcement Learning via Q-weighted Variational Policy Optimization",
2024, arXiv:2405.16173
Code: github.com/wadx2019/qvpo (commit 40a1974), as its README runs it: --weighted --aug

Defaults are the code's. Deviations from it:
- A time limit does not end the task: values are bootstrapped from its last state. The code treats both ends alike.
- The policy is trained on the states of the critic's batch. The code draws a second batch for it.
- The noise schedule is computed in double precision. No noise is drawn for the last denoising step, which adds none.
- The first layer of the noise model is linear in action, time and state. Its part for the state is computed once for
  all samples and denoising steps: the same sums in another order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from algos.agent import Adam, Agent, Batch, Config, Diagnostics, Learner
from algos.diffusion import Diffusion
from algos.networks import RowWise, TwinCritic, frozen_copy, mlp, noise_like, squared_error, td_target


@dataclass(frozen=True, kw_only=True)
class QVPOConfig(Config):
    """Hyperparameters of QVPO."""

    hidden: int = 256  # units of each of the three hidden layers
    actor_lr: float = 1e-4  # learning rate of the noise model
    critic_lr: float = 3e-4  # learning rate of the critics
    adam_eps: float = 1e-5  # epsilon of both optimisers
    clip_norm: float = 2.0  # gradients of actor and critic are clipped to this norm
    tau: float = 0.005  # weight of the online networks in the targets
    denoising_steps: int = 20  # steps T of the diffusion
    train_samples: int = 64  # actions sampled per state; the policy learns the best one
    behaviour_samples: int = 4  # actions sampled to act; the one with the highest Q is taken
    target_samples: int = 4  # actions sampled for the TD target
    eval_samples: int = 32  # actions sampled in evaluations
    entropy_samples: int = 10  # uniform random actions per state in the entropy term
    entropy_weight: float = 0.02  # their weight, relative to the best action's, at the start
    entropy_weight_min: float = 0.002  # the weight falls linearly over training, down to this
    random_steps: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_usual(
            counts=["hidden", "denoising_steps", "behaviour_samples", "target_samples", "eval_samples"],
            rates=["actor_lr", "critic_lr", "adam_eps", "clip_norm"],
            shares=["tau"],
            amounts=["entropy_samples", "entropy_weight", "entropy_weight_min"],
        )
        # With one sample the best equals the mean, so every advantage would be zero.
        self.require("at least 2", lambda x: x >= 2, "train_samples")


TIME_DIM = 32


class NoiseModel(RowWise):
    """epsilon(x_t, t, s): three hidden Mish layers over action, time embedding and state."""

    frequencies: Tensor

    def __init__(self, obs_dim: int, act_dim: int, hidden: int, steps: int) -> None:
        super().__init__()
        decay = math.log(10_000) / (TIME_DIM // 2 - 1)
        angles = torch.arange(steps)[:, None] * torch.exp(-decay * torch.arange(TIME_DIM // 2))
        self.register_buffer("frequencies", torch.cat([angles.sin(), angles.cos()], dim=-1))
        self.time = mlp(TIME_DIM, hidden, TIME_DIM, layers=1, activation=nn.Mish)
        # One linear layer over (action, time, state) in three parts: see the header.
        self.of_action = nn.Linear(act_dim, hidden, bias=False)
        self.of_time = nn.Linear(TIME_DIM, hidden, bias=False)
        self.of_state = nn.Linear(obs_dim, hidden)
        self.rest = nn.Sequential(nn.Mish(), mlp(hidden, hidden, act_dim, activation=nn.Mish))
        self.apply(truncated_normal)
        for piece in (self.of_action, self.of_time, self.of_state):
            truncated_normal(piece, in_dim=act_dim + TIME_DIM + obs_dim)

    def times(self) -> Tensor:
        """The part of the first hidden layer for the denoising steps: [steps, hidden]."""
        embedded: Tensor = self.of_time(self.time(self.frequencies))
        return embedded

    def forward(self, x: Tensor, time: Tensor, state: Tensor) -> Tensor:
        """Predicted noise [..., act_dim] for x [..., act_dim]; time of `times()`, state of `of_state(obs)`."""
        noise: Tensor = self.rest(self.of_action(x) + time + state)
        return noise


def truncated_normal(module: nn.Module, in_dim: int | None = None) -> None:
    """For linear layers: normal weights with deviation 1 / (2 sqrt(in_dim)), cut at two deviations, and zero biases."""
    if isinstance(module, nn.Linear):
        std = 0.5 / math.sqrt(in_dim or module.in_features)
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def critic_network(in_dim: int, hidden: int) -> nn.Sequential:
    """One critic: [..., in_dim] -> [..., 1]."""
    return mlp(in_dim, hidden, 1, layers=3, activation=nn.Mish).apply(truncated_normal)


class QVPO(Agent[QVPOConfig]):
    """Q-weighted variational policy optimisation."""

    Config = QVPOConfig

    def __init__(self, obs_dim: int, act_dim: int, config: QVPOConfig) -> None:
        super().__init__(obs_dim, act_dim, config)
        self.diffusion = Diffusion(config.denoising_steps)
        self.actor = NoiseModel(obs_dim, act_dim, config.hidden, config.denoising_steps)
        self.critic = TwinCritic(lambda: critic_network(obs_dim + act_dim, config.hidden))
        self.target_actor = frozen_copy(self.actor)
        self.target_critic = frozen_copy(self.critic)

    def optimisers(self) -> Mapping[str, Adam]:
        c = self.config
        return {
            "critic": Adam(c.critic_lr, c.adam_eps, c.clip_norm),
            "actor": Adam(c.actor_lr, c.adam_eps, c.clip_norm),
        }

    def act(self, obs: Tensor, explore: bool) -> Tensor:
        samples = self.config.behaviour_samples if explore else self.config.eval_samples
        action, _ = self.best_of(samples, obs, self.actor, self.critic)
        return action

    @torch.no_grad()
    def best_of(self, samples: int, obs: Tensor, actor: NoiseModel, critic: TwinCritic) -> tuple[Tensor, Tensor]:
        """The action with the highest Q among `samples`, [..., act_dim], and the Q of each, [samples, ...]."""
        state, times = actor.of_state(obs), actor.times()
        noise = noise_like(obs.expand(samples, *obs.shape), self.act_dim)

        action = self.diffusion.denoise(lambda x, t: actor(x, times[t], state), noise)
        q = critic(obs.expand(samples, *obs.shape), action).amin(0)
        best = q.argmax(0)[None, ..., None]
        return action.take_along_dim(best, dim=0).squeeze(0), q

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Diagnostics]:
        """TD error; the next action is the target policy's best of `target_samples` by the target critics."""
        c = self.config
        with torch.no_grad():
            _, next_q = self.best_of(c.target_samples, batch.next_obs, self.target_actor, self.target_critic)
            target = td_target(batch, c.gamma, next_q.amax(0))
        q = self.critic(batch.obs, batch.action)
        return squared_error(q, target), {"q": q.mean()}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Diagnostics]:
        """The Q-weighted variational bound with its entropy term (Eq. 9 and 12)."""
        c = self.config
        best, q = self.best_of(c.train_samples, batch.obs, self.actor, self.critic)
        advantage = (q.amax(0) - q.mean(0)).relu()  # the "qadv" transform, [B]
        uniform = 2.0 * torch.rand_like(best.expand(c.entropy_samples, *best.shape)) - 1.0
        action = torch.cat([best[None], uniform])  # [1 + entropy_samples, B, act_dim]
        share = self.entropy_share(batch.progress)
        weight = torch.cat([advantage[None], share * advantage.expand(c.entropy_samples, -1)])
        error = self.denoising_error(action, batch.obs)
        return (weight * error).mean(), {"advantage": advantage.mean(), "entropy_share": share}

    def entropy_share(self, progress: Tensor) -> Tensor:
        """The weight of a uniform action relative to the best one's: linear in `progress` [], bounded below."""
        c = self.config
        annealed = c.entropy_weight * (1.0 - progress)
        return annealed.clamp_min(min(c.entropy_weight_min, c.entropy_weight))

    def denoising_error(self, action: Tensor, obs: Tensor) -> Tensor:
        """|noise - epsilon(x_t, t, s)|^2 at random t, averaged over dimensions: [n, B] for action [n, B, act_dim]."""
        # torch.randint does not take the device from a tensor, as rand_like does.
        t = (torch.rand_like(action[..., 0]) * self.diffusion.steps).long().clamp_max(self.diffusion.steps - 1)
        noise = torch.randn_like(action)
        x = self.diffusion.add_noise(action, noise, t)
        # Rows are selected by a product, because the gradient of indexing is summed in an undefined order.
        times = self.actor.times()
        picked = torch.eq(t[..., None], torch.arange(len(times), device=t.device)).to(times.dtype)
        predicted: Tensor = self.actor(x, picked @ times, self.actor.of_state(obs))
        return (predicted - noise).square().mean(dim=-1)

    def update(self, batch: Batch, learner: Learner, phase: int) -> None:
        """The gradient steps of Algorithm 1."""
        learner.minimise("critic", self.critic_loss, batch)
        learner.minimise("actor", self.actor_loss, batch)
        learner.track("target_critic", "critic", self.config.tau)
        learner.track("target_actor", "actor", self.config.tau)
