"""FlowRL: a flow policy that maximises Q and stays near the best behaviour in replay.

Paper: Lv et al., "Flow-Based Policy for Online Reinforcement Learning", 2025, arXiv:2506.12811
Code: github.com/bytedance/FlowRL (commit e26279b)

Equation numbers are the paper's. Where the released code and the paper differ, the default follows the code, because
the paper's figures come from it. Most differences can be set to the paper's form:

1. tau = 0.95 nearly copies the critics at every second update. The paper gives no value; the usual one is tau=0.005.
2. weights="batch": the flow-matching error is averaged over the batch before it is multiplied by the weights, so only
   the mean weight has an effect. weights="sample" is Eq. 13: each transition has its own weight.
3. weighting="exponential": clip(lambda exp(A - mean A), 0.001, 1) with A = max(Q_beta* - Q_pi, 0).
   weighting="linear" is Eq. 14: lambda A.
4. Q_beta* in the policy loss is the minimum of the live critics at the stored action, from the forward pass of their
   update. The value is regressed on the tracked critics, and the targets of the critics use the live value. Eq. 18
   and 19 do not distinguish live from tracked. behaviour_q="tracked" takes Q_beta* from the tracked critics.
5. noise="apart": the flow-matching term of Eq. 13 draws its own start points. noise="shared" uses the start points of
   the sampled actions, so both terms concern the same path.
6. The noise is clipped to [-1, 1] and tanh is applied to the end of the flow. Eq. 9 has neither. The flow-matching
   term moves the end before the tanh towards the stored action.

Both forms of the weights average the squared error over action dimensions (the paper writes the sum), so lambda has the
same meaning in both. Deviations from the code: full precision (the code trains in bfloat16 on CUDA), no exploration
noise (the code has an amplitude for it, set to zero), and batches drawn with replacement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from algos.agent import Adam, Agent, Batch, Config, Diagnostics, Learner
from algos.flow import Scheme, integrate, interpolate
from algos.networks import TwinCritic, frozen_copy, noise_like, squared_error, td_target


@dataclass(frozen=True, kw_only=True)
class FlowRLConfig(Config):
    """Hyperparameters of FlowRL."""

    hidden: int = 512  # units of every hidden layer
    lr: float = 3e-4  # learning rate of all four networks
    tau: float = 0.95  # weight of the online critics in the targets
    policy_delay: int = 2  # critic updates per policy update
    flow_steps: int = 1  # integration steps N from noise to action
    scheme: Scheme = "midpoint"  # integration rule; midpoint evaluates the velocity twice per step
    constraint: bool = True  # False drops the flow-matching term (the paper's ablation, Fig. 4a)
    lagrange: float = 0.1  # the multiplier lambda of the constraint
    expectile: float = 0.9  # of the behaviour-optimal value; the authors advise 0.8 for unseen h1 tasks
    weights: Literal["batch", "sample"] = "batch"  # one weight for all transitions, or one for each (Eq. 13)
    weighting: Literal["exponential", "linear"] = "exponential"  # how an advantage becomes a weight
    behaviour_q: Literal["live", "tracked"] = "live"  # critics that give Q_beta* in the constraint
    noise: Literal["apart", "shared"] = "apart"  # start points of flow matching and of the sampled action
    recent_share: float = 0.2
    random_steps: int = 5_000

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ["hidden", "policy_delay", "flow_steps"]
        self.require_usual(counts=counts, rates=["lr"], shares=["tau"], amounts=["lagrange"])
        self.require("in (0, 1)", lambda x: 0.0 < x < 1.0, "expectile")


WEIGHT_MIN, WEIGHT_MAX = 1e-3, 1.0


class VelocityField(nn.Module):
    """v(s, a_t, t): two hidden layers with LayerNorm and ELU."""

    def __init__(self, obs_dim: int, act_dim: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(obs_dim + act_dim + 1, hidden), nn.LayerNorm(hidden), nn.ELU(),
            nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.ELU(),
            nn.Linear(hidden, act_dim),
        )  # fmt: skip
        self.apply(xavier)

    def forward(self, obs: Tensor, action: Tensor, t: Tensor) -> Tensor:
        """Velocity [..., act_dim] for obs [..., obs_dim], action [..., act_dim], t [..., 1]."""
        velocity: Tensor = self.net(torch.cat([obs, action, t], dim=-1))
        return velocity


def value_network(in_dim: int, hidden: int) -> nn.Sequential:
    """The network of every critic and value: [..., in_dim] -> [..., 1]."""
    net = nn.Sequential(
        nn.Linear(in_dim, hidden), nn.LayerNorm(hidden),
        nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.GELU(),
        nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.GELU(),
        nn.Linear(hidden, hidden), nn.LayerNorm(hidden),
        nn.Linear(hidden, 1),
    )  # fmt: skip
    return net.apply(xavier)


def xavier(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for linear layers."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def expectile_loss(error: Tensor, expectile: float) -> Tensor:
    """L2 of Eq. 18: |expectile - 1(error < 0)| error^2, elementwise."""
    below = (error < 0).to(error.dtype)
    return (expectile - below).abs() * error.square()


class FlowRL(Agent[FlowRLConfig]):
    """Flow policy with a behaviour-optimal constraint."""

    Config = FlowRLConfig

    def __init__(self, obs_dim: int, act_dim: int, config: FlowRLConfig) -> None:
        super().__init__(obs_dim, act_dim, config)
        self.period = config.policy_delay
        self.velocity = VelocityField(obs_dim, act_dim, config.hidden)
        self.critic = TwinCritic(lambda: value_network(obs_dim + act_dim, config.hidden))
        self.target_critic = frozen_copy(self.critic)
        if config.constraint:  # only the constraint uses Q_beta*, which starts as Q_pi
            self.behaviour_critic = frozen_copy(self.critic).requires_grad_(True)
            self.target_behaviour_critic = frozen_copy(self.critic)
            self.behaviour_value = value_network(obs_dim, config.hidden)

    def optimisers(self) -> Mapping[str, Adam]:
        parts = ["critic", "velocity"]
        if self.config.constraint:
            parts += ["behaviour_critic", "behaviour_value"]
        return {part: Adam(self.config.lr) for part in parts}

    def act(self, obs: Tensor, explore: bool) -> Tensor:
        """Sampled from the flow, also in evaluations: the noise is the only randomness of the policy."""
        return self.sample(obs)

    def sample(self, obs: Tensor) -> Tensor:
        """Eq. 9 from new start points."""
        return self.flow(obs, self.start(obs))

    def flow(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Eq. 9: integrate the velocity field from the start points, then squash with tanh."""
        c = self.config
        return torch.tanh(integrate(lambda a, t: self.velocity(obs, a, t), noise, c.flow_steps, c.scheme))

    def start(self, obs: Tensor) -> Tensor:
        """Start points a0 [..., act_dim] of the flow: clipped Gaussian noise."""
        return noise_like(obs, self.act_dim).clamp(-1.0, 1.0)

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Diagnostics]:
        """Eq. 3: TD error of Q_pi."""
        with torch.no_grad():
            next_q = self.target_critic(batch.next_obs, self.sample(batch.next_obs)).amin(0)
            target = td_target(batch, self.config.gamma, next_q)
        q = self.critic(batch.obs, batch.action)
        return squared_error(q, target), {"q": q.mean()}

    def behaviour_critic_loss(self, batch: Batch) -> tuple[Tensor, Diagnostics]:
        """Eq. 19: TD error of Q_beta*, bootstrapped from the behaviour-optimal value."""
        with torch.no_grad():
            next_v = self.behaviour_value(batch.next_obs).squeeze(-1)
            target = td_target(batch, self.config.gamma, next_v)
        q = self.behaviour_critic(batch.obs, batch.action)
        return squared_error(q, target), {"q_behaviour": q.amin(0)}

    def behaviour_value_loss(self, batch: Batch) -> tuple[Tensor, Diagnostics]:
        """Eq. 18: expectile regression of V_beta* on Q_beta*."""
        with torch.no_grad():
            q = self.target_behaviour_critic(batch.obs, batch.action).amin(0)
        v = self.behaviour_value(batch.obs).squeeze(-1)
        return expectile_loss(q - v, self.config.expectile).mean(), {"v_behaviour": v.mean()}

    def policy_loss(self, batch: Batch, q_behaviour: Tensor | None) -> tuple[Tensor, Diagnostics]:
        """Eq. 22: maximise Q_pi; match the flow to stored actions where Q_beta* [B] exceeds Q_pi."""
        start = self.start(batch.obs)
        q = self.critic(batch.obs, self.flow(batch.obs, start)).amin(0)
        if q_behaviour is None:
            return -q.mean(), {}
        if self.config.behaviour_q == "tracked":
            with torch.no_grad():
                q_behaviour = self.target_behaviour_critic(batch.obs, batch.action).amin(0)
        weight = self.weight(q_behaviour - q.detach())
        error = self.flow_matching_error(batch, start if self.config.noise == "shared" else self.start(batch.obs))
        if self.config.weights == "batch":
            error = error.mean()
        constraint = (weight * error).mean()
        return constraint - q.mean(), {"constraint": constraint, "weight": weight.mean()}

    def weight(self, advantage: Tensor) -> Tensor:
        """lambda f(Q_beta* - Q_pi) of Eq. 22, [B] for an advantage [B] (Eq. 14, or the code's exponential)."""
        gain = advantage.relu()
        if self.config.weighting == "linear":
            return self.config.lagrange * gain
        return (self.config.lagrange * (gain - gain.mean()).exp()).clamp(WEIGHT_MIN, WEIGHT_MAX)

    def flow_matching_error(self, batch: Batch, noise: Tensor) -> Tensor:
        """|v(s, a_t, t) - (a - a0)|^2 of Eq. 13 from start points a0, averaged over action dimensions: [B]."""
        t = torch.rand_like(noise[..., :1])
        velocity: Tensor = self.velocity(batch.obs, interpolate(noise, batch.action, t), t)
        return (velocity - (batch.action - noise)).square().mean(dim=-1)

    def update(self, batch: Batch, learner: Learner, phase: int) -> None:
        """Algorithm 1, lines 6-10."""
        c = self.config
        learner.minimise("critic", self.critic_loss, batch)
        q_behaviour = None
        if c.constraint:
            q_behaviour = learner.minimise("behaviour_critic", self.behaviour_critic_loss, batch)["q_behaviour"]
            learner.minimise("behaviour_value", self.behaviour_value_loss, batch)
        if phase == 0:
            learner.minimise("velocity", self.policy_loss, batch, q_behaviour)
            learner.track("target_critic", "critic", c.tau)
            if c.constraint:
                learner.track("target_behaviour_critic", "behaviour_critic", c.tau)
