"""Fig. 2 of FlowRL's paper: flow matching on a bandit whose replay buffer holds good and bad actions.

The state never changes. So a policy is one velocity field over a plane of actions, and the value of an action is its
reward. Plain flow matching reproduces the stored actions. Flow matching that is weighted by max(Q_beta* - Q_pi, 0)
(Eq. 13 and 14) moves to the stored actions that are better than the policy. Q_pi is the mean reward of the current
policy: as it rises, fewer stored actions have a positive weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from algos.flow import advance, interpolate
from algos.flowrl import VelocityField
from flowbench.experiments.outcome import Outcome, save

CENTRES = torch.tensor([[-0.6, -0.55], [0.65, -0.5], [-0.55, 0.6], [0.6, 0.55]])  # of the clusters of stored actions
REWARDS = torch.tensor([0.25, 0.5, 0.35, 1.0])  # at each centre
SPREAD = 0.12  # standard deviation of a cluster
WIDTH = 0.35  # of the hill of the reward around a centre
STORED, BATCH, HIDDEN, LR = 4_000, 512, 64, 3e-3
SAMPLES, FLOW_STEPS = 1_000, 5  # of the trained policy, for the figure
LIMIT = 1.6  # of both axes of the figure


@dataclass(frozen=True)
class Policy:
    """Samples of a trained policy: `paths` [FLOW_STEPS + 1, SAMPLES, 2] lead from noise to actions."""

    paths: Tensor
    reward: float  # mean over the samples
    spread: float  # of the samples


def reward(action: Tensor) -> Tensor:
    """Reward [...] of actions [..., 2]: the highest of four hills."""
    distance = (action.unsqueeze(-2) - CENTRES.to(action)).square().sum(-1)
    return (REWARDS.to(action) * (-distance / (2 * WIDTH**2)).exp()).amax(-1)


def replay(generator: torch.Generator) -> Tensor:
    """Actions [STORED, 2] of mixed quality, about equally many around each centre."""
    centre = CENTRES[torch.randint(len(CENTRES), (STORED,), generator=generator)]
    return centre + SPREAD * torch.randn(STORED, 2, generator=generator)


def train(stored: Tensor, guided: bool, updates: int, seed: int, on_update: Callable[[int], None]) -> Policy:
    """Train a flow on the stored actions, with or without value guidance; `on_update` receives the update's index."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    field = VelocityField(0, 2, HIDDEN)
    optimiser = torch.optim.Adam(field.parameters(), LR)
    for update in range(updates):
        action = stored[torch.randint(len(stored), (BATCH,), generator=generator)]
        noise = torch.randn(BATCH, 2, generator=generator)
        t = torch.rand(BATCH, 1, generator=generator)
        velocity = field(action[:, :0], interpolate(noise, action, t), t)
        error = (velocity - (action - noise)).square().sum(-1)
        if guided:
            with torch.no_grad():
                value = reward(_flow(field, torch.randn(BATCH, 2, generator=generator))[-1]).mean()
            weight = (reward(action) - value).relu()
            error = error * weight / weight.mean().clamp_min(1e-6)
        optimiser.zero_grad()
        error.mean().backward()
        optimiser.step()
        on_update(update)
    with torch.no_grad():
        paths = _flow(field, torch.randn(SAMPLES, 2, generator=generator))
    return Policy(paths, reward(paths[-1]).mean().item(), spread(paths[-1]))


def spread(actions: Tensor) -> float:
    """Root mean square distance of actions [N, 2] from their mean."""
    return (actions - actions.mean(0)).square().sum(-1).mean().sqrt().item()


def _flow(field: VelocityField, noise: Tensor) -> Tensor:
    """The paths [FLOW_STEPS + 1, ..., 2] that start at the noise [..., 2]."""
    points = [noise]
    for step in range(FLOW_STEPS):
        points.append(advance(partial(field, noise[:, :0]), points[-1], step / FLOW_STEPS, 1 / FLOW_STEPS, "midpoint"))
    return torch.stack(points)


def draw(stored: Tensor, guided: Policy, plain: Policy) -> Figure:
    """Three panels: the stored actions, the guided policy over Q_pi - Q_beta*, and the plain policy."""
    figure = Figure(figsize=(6.75, 2.7), layout="constrained")
    left, middle, right = figure.subplots(1, 3, sharex=True, sharey=True)
    shown = stored[:SAMPLES]
    points = left.scatter(shown[:, 0], shown[:, 1], c=reward(shown), s=3, cmap="viridis", vmin=0.0, vmax=1.0)
    left.set_title(f"replay\nreward {reward(stored).mean():.2f}, spread {spread(stored):.2f}", fontsize=8)
    axis = torch.linspace(-LIMIT, LIMIT, 201)
    plane = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    behind = guided.reward - reward(plane)
    heat = middle.imshow(
        behind, origin="lower", extent=(-LIMIT, LIMIT, -LIMIT, LIMIT), cmap="RdBu_r", vmin=-1.0, vmax=1.0
    )
    _paths(middle, guided, "guided by value", "white")
    _paths(right, plain, "plain flow matching", "0.6")
    for shade, panel, label in (
        (points, left, "reward"), (heat, middle, r"$Q_\pi - Q_{\beta^*}$"), (points, right, "reward")
    ):  # fmt: skip
        bar = figure.colorbar(shade, ax=panel, location="bottom", aspect=30)
        bar.set_label(label, fontsize=8)
        bar.ax.tick_params(labelsize=7)
    for panel in (left, middle, right):
        panel.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        panel.tick_params(labelsize=7)
    return figure


def _paths(panel: Axes, policy: Policy, name: str, colour: str) -> None:
    """Draw a hundred paths, and the action at the end of every path."""
    lines, ends = policy.paths[:, :100], policy.paths[-1]
    panel.plot(lines[..., 0], lines[..., 1], color=colour, linewidth=0.4, alpha=0.7)
    panel.scatter(ends[:, 0], ends[:, 1], c=reward(ends), s=3, cmap="viridis", vmin=0.0, vmax=1.0, zorder=3)
    panel.set_title(f"{name}\nreward {policy.reward:.2f}, spread {policy.spread:.2f}", fontsize=8)


def cost(*, updates: int) -> str:
    """How much there is to compute."""
    return f"{updates:,} updates of each of two small networks"


def run(folder: Path, on_progress: Callable[[float], None], *, updates: int) -> Outcome:
    """Train both policies and draw the figure. `on_progress` receives the finished share."""
    stored = replay(torch.Generator().manual_seed(0))
    guided = train(stored, True, updates, 0, lambda done: on_progress(done / updates / 2))
    plain = train(stored, False, updates, 0, lambda done: on_progress(0.5 + done / updates / 2))
    rows = [
        ("replay", reward(stored).mean().item(), spread(stored)),
        ("guided by value", guided.reward, guided.spread),
        ("plain flow matching", plain.reward, plain.spread),
    ]
    return Outcome(
        ["actions", "mean reward", "spread"],
        [[name, f"{mean:.3f}", f"{width:.3f}"] for name, mean, width in rows],
        save(draw(stored, guided, plain), folder / "bandit"),
    )
