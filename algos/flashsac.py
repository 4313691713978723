"""FlashSAC: SAC with normalised networks, a distributional critic, and exploration noise that is held.

Paper: Kim et al., "FlashSAC: Fast and Stable Off-Policy Reinforcement Learning for High-Dimensional Robot Control",
2026, arXiv:2604.04539
Code: github.com/Holiday-Robot/FlashSAC

Defaults are those of the authors' code for DMControl. Deviations from it:
- Products are computed in the precision of the run, not in float16.
- The learning rate falls with the training steps; the authors count updates, which begin 10,000 steps later.
- The categorical target is spread by its distance to every atom, not by adding to the two nearest ones. The values are
  the same, and the order of the sums does not change from run to run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos.agent import Adam, Agent, Batch, Config, Diagnostics, Learner, Memory, Transition
from algos.networks import evaluation_mode, frozen_copy, noise_like
from algos.sac import Temperature, squashed_log_prob


@dataclass(frozen=True, kw_only=True)
class FlashSACConfig(Config):
    """Hyperparameters of FlashSAC."""

    batch_size: int = 512
    hidden: int = 256  # units of each critic
    actor_hidden: int = 128  # units of the actor
    blocks: int = 2  # residual blocks of each network
    atoms: int = 101  # of the distribution of the return
    max_return: float = 5.0  # rewards are scaled so that returns are below this; the atoms cover plus and minus this
    lr: float = 3e-4  # learning rate at the start; a cosine takes it to half of this
    tau: float = 0.01  # weight of the online critics in the targets
    initial_temperature: float = 0.01  # alpha at the start
    target_std: float = 0.15  # the target entropy is that of a normal distribution with this deviation
    policy_delay: int = 2  # the actor is updated in every policy_delay-th update
    longest_hold: int = 16  # most steps for which noise is held
    random_steps: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ["hidden", "actor_hidden", "blocks", "policy_delay", "longest_hold"]
        rates = ["lr", "max_return", "initial_temperature", "target_std"]
        self.require_usual(counts=counts, rates=rates, shares=["tau"])
        self.require("at least 2", lambda x: x >= 2, "atoms")


LOG_STD_MIN, LOG_STD_MAX = -10.0, 2.0


class Norm(nn.BatchNorm1d):
    """Batch normalisation of [..., n] with slow running statistics."""

    def __init__(self, n: int) -> None:
        super().__init__(n, momentum=0.01)


class Block(nn.Module):
    """An inverted bottleneck with a residual connection: [B, n] -> [B, n]."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(n, 4 * n, bias=False), nn.Linear(4 * n, n, bias=False)
        self.wide_norm, self.narrow_norm = Norm(4 * n), Norm(n)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.wide_norm(self.wide(x)))
        return x + F.relu(self.narrow_norm(self.narrow(hidden)))


class Network(nn.Module):
    """Normalised features of the input, and a linear layer: [B, in] -> [B, out]."""

    def __init__(self, in_dim: int, hidden: int, out_dim: int, blocks: int) -> None:
        super().__init__()
        embedding = [Norm(in_dim), nn.Linear(in_dim, hidden, bias=False)]
        self.features = nn.Sequential(*embedding, *(Block(hidden) for _ in range(blocks)), nn.RMSNorm(hidden, eps=1e-6))
        self.head = nn.Linear(hidden, out_dim)
        nn.init.zeros_(self.head.bias)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight)
        with torch.no_grad():
            to_unit_norm(self)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.features(x))
        return y


def to_unit_norm(network: nn.Module) -> None:
    """Scale the rows of weights to length 1, and the gains of normalising layers, with their shifts, to sqrt(n)."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.copy_(F.normalize(layer.weight, dim=-1, eps=1e-8))
        elif isinstance(layer, nn.RMSNorm):
            scale = math.sqrt(layer.weight.numel()) * torch.rsqrt(layer.weight.square().sum() + 1e-8)
            layer.weight.copy_(scale * layer.weight)
        elif isinstance(layer, Norm):
            squares = layer.weight.square().sum() + layer.bias.square().sum()
            scale = math.sqrt(layer.weight.numel()) * torch.rsqrt(squares + 1e-8)
            layer.weight.copy_(scale * layer.weight)
            layer.bias.copy_(scale * layer.bias)


class Actor(nn.Module):
    """The policy: a = tanh(u), where u is normal."""

    def __init__(self, obs_dim: int, act_dim: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.net = Network(obs_dim, hidden, 2 * act_dim, blocks)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of u, each [B, act_dim]."""
        mean, raw = self.net(obs).chunk(2, dim=-1)
        return mean, LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (1.0 + torch.tanh(raw))

    def sample(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Reparameterised actions [B, act_dim] and their log-probabilities [B]."""
        mean, log_std = self(obs)
        noise = noise_like(obs, mean.shape[-1])
        u = mean + log_std.exp() * noise
        return torch.tanh(u), squashed_log_prob(u, noise, log_std)


class Critics(nn.Module):
    """Two networks for the distribution of the return."""

    support: Tensor

    def __init__(self, in_dim: int, config: FlashSACConfig) -> None:
        super().__init__()
        networks = (Network(in_dim, config.hidden, config.atoms, config.blocks) for _ in range(2))
        self.networks = nn.ModuleList(networks)
        self.register_buffer("support", torch.linspace(-config.max_return, config.max_return, config.atoms))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log-probabilities of the atoms, [2, B, atoms]."""
        x = torch.cat([obs, action], dim=-1)
        return torch.stack([network(x) for network in self.networks]).log_softmax(dim=-1)

    def mean(self, log_probs: Tensor) -> Tensor:
        """The expected returns [...] of log-probabilities [..., atoms]."""
        return (log_probs.exp() * self.support).sum(dim=-1)


class RewardScale(nn.Module):
    """Running statistics of the discounted sum of rewards since the start of the episode."""

    total: Tensor
    largest: Tensor
    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, initial in {"total": 0.0, "largest": 0.0, "mean": 0.0, "var": 1.0, "count": 0.0}.items():
            self.register_buffer(name, torch.tensor(initial))

    def observe(self, reward: Tensor, ended: Tensor, gamma: float) -> None:
        """Include a reward []. The sum is restarted at the last step of an episode, as in the authors' code."""
        self.total = gamma * (1.0 - ended) * self.total + reward
        self.largest = torch.maximum(self.largest, self.total.abs())
        delta, count = self.total - self.mean, self.count + 1.0
        self.mean = self.mean + delta / count
        self.var = (self.var * (self.count + 1e-4) + delta.square() * self.count / count) / count
        self.count = count

    def forward(self, reward: Tensor, max_return: float) -> Tensor:
        """Scaled rewards [B]: returns have a deviation of at most 1 and a size of at most `max_return`."""
        return reward / torch.maximum((self.var + 1e-8).sqrt(), self.largest / max_return)


class FlashSAC(Agent[FlashSACConfig]):
    """Soft actor-critic with networks whose weights and features keep their size."""

    Config = FlashSACConfig
    hold_cdf: Tensor

    def __init__(self, obs_dim: int, act_dim: int, config: FlashSACConfig) -> None:
        super().__init__(obs_dim, act_dim, config)
        self.period = config.policy_delay
        self.target_entropy = 0.5 * act_dim * math.log(2.0 * math.pi * math.e * config.target_std**2)
        self.actor = Actor(obs_dim, act_dim, config.actor_hidden, config.blocks)
        self.critic = Critics(obs_dim + act_dim, config)
        self.target_critic = frozen_copy(self.critic)
        self.temperature = Temperature(config.initial_temperature)
        self.reward_scale = RewardScale()
        holds = torch.arange(1.0, config.longest_hold + 1.0) ** -2.0  # Zeta(2), cut off
        self.register_buffer("hold_cdf", (holds / holds.sum()).cumsum(0))

    def optimisers(self) -> Mapping[str, Adam]:
        lr, delay = self.config.lr, self.config.policy_delay
        return {
            "critic": Adam(lr, schedule=half_cosine, project=to_unit_norm),
            # Their schedules count their own updates.
            "actor": Adam(lr, schedule=lambda progress: half_cosine(progress / delay), project=to_unit_norm),
            "temperature": Adam(lr, schedule=lambda progress: half_cosine(progress / delay)),
        }

    def memory(self, obs: Tensor) -> Memory:
        """The noise that is held, and for how many steps more."""
        return {"noise": obs.new_zeros(len(obs), self.act_dim), "left": obs.new_zeros(len(obs), 1)}

    def act(self, obs: Tensor, explore: bool, memory: Memory) -> tuple[Tensor, Memory]:  # type: ignore[override]
        """Noise is held for n steps, n from Zeta(2)."""
        mean, log_std = self.actor(obs)
        if not explore:
            return torch.tanh(mean), memory
        used_up = memory["left"] == 0
        length = 1.0 + (torch.rand_like(obs[:, :1]) >= self.hold_cdf[:-1]).sum(dim=-1, keepdim=True)
        noise = torch.where(used_up, noise_like(obs, self.act_dim), memory["noise"])
        left = torch.where(used_up, length, memory["left"]) - 1.0
        return torch.tanh(mean + log_std.exp() * noise), {"noise": noise, "left": left}

    def observe(self, transition: Transition) -> None:
        self.reward_scale.observe(transition.reward, transition.ended, self.config.gamma)

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Diagnostics]:
        """SAC's loss. The next observations only take part in the batch statistics."""
        actions, log_probs = self.actor.sample(torch.cat([batch.obs, batch.next_obs]))
        action, log_prob = actions[: len(batch.obs)], log_probs[: len(batch.obs)]
        with evaluation_mode(self.critic):
            q = self.critic.mean(self.critic(batch.obs, action)).amin(0)
        return (self.temperature().detach() * log_prob - q).mean(), {"entropy": -log_prob.mean()}

    def temperature_loss(self, entropy: Tensor) -> tuple[Tensor, Diagnostics]:
        """Alpha falls while the policy's entropy [] is above its target."""
        alpha = self.temperature()
        return alpha * (entropy - self.target_entropy), {"alpha": alpha}

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Diagnostics]:
        """Cross-entropy to the target distribution of the critic with the lower value.

        Present and next transitions pass through the networks together, so they share their batch statistics.
        """
        n = len(batch.obs)
        with torch.no_grad():
            with evaluation_mode(self.actor):
                next_action, log_prob = self.actor.sample(batch.next_obs)
            obs, action = torch.cat([batch.obs, batch.next_obs]), torch.cat([batch.action, next_action])
            log_probs = self.target_critic(obs, action)[:, n:]
            lower = self.critic.mean(log_probs).argmin(0)
            next_probs = torch.where((lower == 0)[:, None], log_probs[0], log_probs[1]).exp()
            reward = self.reward_scale(batch.reward, self.config.max_return)
            target = self.target_probs(next_probs, reward, batch.discount, self.temperature() * log_prob)
        predicted = self.critic(obs, action)[:, :n]
        loss = -(target * predicted).sum(dim=-1).mean()
        return loss, {"q": self.critic.mean(predicted).mean()}

    def target_probs(self, next_probs: Tensor, reward: Tensor, discount: Tensor, entropy_cost: Tensor) -> Tensor:
        """Distributions [B, atoms] of reward + gamma discount (return - entropy_cost), the last three [B].

        Every atom moves, and its probability goes to the two nearest ones (C51, Bellemare et al. 2017).
        """
        support, limit = self.critic.support, self.config.max_return
        moved = support - entropy_cost[:, None]
        moved = (reward[:, None] + self.config.gamma * discount[:, None] * moved).clamp(-limit, limit)
        width = 2.0 * limit / (self.config.atoms - 1)
        distance = ((moved / width)[:, None] - (support / width)[:, None]).abs_()  # [B, to, from], in atoms
        shares = distance.neg_().add_(1.0).relu_()  # in place: these are 5 million numbers
        return (shares @ next_probs[..., None]).squeeze(-1)

    def update(self, batch: Batch, learner: Learner, phase: int) -> None:
        """One update of the critic; before it, in every `policy_delay`-th, one of the actor and the temperature."""
        if phase == 0:
            policy = learner.minimise("actor", self.actor_loss, batch)
            learner.minimise("temperature", self.temperature_loss, policy["entropy"])
        learner.minimise("critic", self.critic_loss, batch)
        learner.track("target_critic", "critic", self.config.tau)


def half_cosine(progress: Tensor) -> Tensor:
    """Falls from 1 to 1/2 along a cosine."""
    return 0.75 + 0.25 * torch.cos(math.pi * progress)
