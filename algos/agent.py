"""The interface of an algorithm: an `Agent` is trained by a `Learner` on `Batch`es.

An algorithm file contains a frozen dataclass of hyperparameters and one subclass of `Agent`, written for one seed. It
does not deal with devices, optimisers, seeds or logging; the training code provides them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar, get_args, get_origin, get_type_hints

from torch import Tensor, nn

Diagnostics = dict[str, Tensor]
"""Named tensors of a loss. Scalars are logged; other tensors are only for a later loss."""

Memory = dict[str, Tensor]
"""What a policy remembers of N episodes: named tensors [N, ...]."""

Loss = Callable[..., tuple[Tensor, Diagnostics]]


class Batch(NamedTuple):
    """Transitions sampled from replay."""

    obs: Tensor  # [B, obs_dim]
    action: Tensor  # [B, act_dim] in [-1, 1]
    reward: Tensor  # [B]
    next_obs: Tensor  # [B, obs_dim]
    discount: Tensor  # [B], 0 where the episode truly ended, 1 elsewhere (also at a time limit)
    progress: Tensor  # [], fraction of the training steps taken so far, in [0, 1]


class Transition(NamedTuple):
    """One step in the environment during training."""

    obs: Tensor  # [obs_dim]
    action: Tensor  # [act_dim] in [-1, 1]
    reward: Tensor  # []
    next_obs: Tensor  # [obs_dim]
    discount: Tensor  # [], 0 if the episode truly ended, 1 otherwise (also at a time limit)
    ended: Tensor  # [], 1 if the episode ended for any reason, 0 otherwise


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyperparameters of every algorithm. An algorithm adds its own fields and defaults."""

    gamma: float = 0.99  # discount factor
    batch_size: int = 256  # transitions per update
    replay_size: int = 1_000_000  # transitions kept; the oldest are overwritten
    recent_share: float = 0.0  # fraction of a batch that is drawn from the most recent transitions only
    recent_window: int = 2048  # how many transitions count as recent
    random_steps: int = 10_000  # environment steps with uniform random actions before learning
    updates_per_step: int = 1  # updates per environment step, after the random steps

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, for a value that no algorithm can train with."""
        self.require("at least 1", lambda x: x >= 1, "batch_size", "replay_size", "recent_window", "updates_per_step")
        self.require("zero or more", lambda x: x >= 0, "random_steps")
        self.require("in [0, 1]", lambda x: 0.0 <= x <= 1.0, "gamma", "recent_share")
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal:
                choices = get_args(kind)
                self.require("one of " + ", ".join(map(str, choices)), choices.__contains__, name)

    def require(self, rule: str, holds: Callable[[Any], bool], *names: str) -> None:
        """Raise ValueError, naming field, value and rule, unless `holds` is true for every field in `names`."""
        for name in names:
            if not holds(getattr(self, name)):
                raise ValueError(f"{name} must be {rule}, got {getattr(self, name)}")

    def require_usual(
        self,
        *,
        counts: Sequence[str] = (),
        rates: Sequence[str] = (),
        shares: Sequence[str] = (),
        amounts: Sequence[str] = (),
    ) -> None:
        """The usual ranges: counts >= 1, finite rates > 0, shares in (0, 1], finite amounts >= 0."""
        self.require("at least 1", lambda x: x >= 1, *counts)
        self.require("positive and finite", lambda x: 0.0 < x < math.inf, *rates)
        self.require("in (0, 1]", lambda x: 0.0 < x <= 1.0, *shares)
        self.require("zero or more and finite", lambda x: 0.0 <= x < math.inf, *amounts)


@dataclass(frozen=True)
class Adam:
    """The optimiser of one part of an agent. The order of a step: clip values, clip the norm, Adam, decay, project."""

    lr: float
    eps: float = 1e-8
    clip_norm: float | None = None  # the part's gradient, all its tensors together, is scaled down to this 2-norm
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0  # as in AdamW: each step shrinks the parameters by this times the learning rate
    clip_value: float | None = None  # every element of the gradient is limited to [-clip_value, clip_value]
    rates: Mapping[str, float] = field(default_factory=dict)  # factors of lr for sub-modules of the part, by name
    schedule: Callable[[Tensor], Tensor] | None = None  # factor of lr as a function of `Batch.progress`
    project: Callable[[nn.Module], None] | None = None  # changes the part's parameters in place after a step


class Learner(Protocol):
    """The two operations that an `update` consists of."""

    def minimise(self, part: str, loss: Loss, *args: Any) -> Diagnostics:
        """Take one optimiser step on `part`, a sub-module or parameter of the agent, in training mode.

        `loss(*args)` returns a scalar and its diagnostics. Returns the diagnostics, detached, from before the step. A
        buffer that the loss changes or assigns, such as a running mean, keeps its new value.
        """
        ...

    def track(self, target: str, online: str, tau: float) -> None:
        """Move sub-module `target` towards `online`: target <- (1 - tau) target + tau online. Buffers are copied."""
        ...


C = TypeVar("C", bound=Config)


class Agent(nn.Module, Generic[C]):
    """A policy with its critics, losses and update rule, for one seed.

    All that changes while it is trained must be a parameter or a buffer (`register_buffer`): a checkpoint contains
    nothing else.
    """

    Config: ClassVar[type[Config]]
    period: int = 1  # update() sees phase = (number of updates so far) % period
    first_updates: int = 0  # additional updates in the first step after the random ones

    def __init__(self, obs_dim: int, act_dim: int, config: C) -> None:
        super().__init__()
        self.obs_dim = obs_dim
        self.act_dim = act_dim
        self.config = config

    def optimisers(self) -> Mapping[str, Adam]:
        """The trained parts, sub-modules or parameters of the agent by name, each with its optimiser."""
        raise NotImplementedError

    def act(self, obs: Tensor, explore: bool) -> Tensor:
        """Actions [N, act_dim] in [-1, 1] for obs [N, obs_dim]; `explore` is False in evaluations.

        The agent is in evaluation mode, also to explore: batch normalisation uses its running statistics.
        """
        raise NotImplementedError

    def memory(self, obs: Tensor) -> Memory | None:
        """The memory at the start of N episodes, whose first observations are obs [N, obs_dim]; None without memory.

        A policy with memory has `act(obs, explore, memory)`, which returns the actions and the memory for the next
        step. Training and each evaluation have memories of their own.
        """
        return None

    def observe(self, transition: Transition) -> None:
        """Called with each transition of the training, in order, also in the random steps. It may change buffers.

        Use it for running statistics of observations and rewards. By default it does nothing.
        """

    def update(self, batch: Batch, learner: Learner, phase: int) -> None:
        """One update, as in the pseudocode of the paper."""
        raise NotImplementedError
