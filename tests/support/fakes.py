"""Small stand-ins: an environment one can compute by hand, an agent that trains in microseconds, cells of a grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from msgspec.structs import replace as replace_fields
from torch import nn

import algos
import suites
from algos.agent import Adam, Agent, Config
from flowbench.plan.cells import Cell, Protocol, Variant
from flowbench.store import records
from flowbench.store.records import RunRecord, Status


class Walk(gymnasium.Env):
    """obs = [position, steps taken], reward = the action; an episode of `length` steps ends as `ends` says."""

    def __init__(self, length: int = 5, ends: str = "truncated"):
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.length, self.ends = length, ends
        self.seeds: list[int | None] = []
        self.actions: list[float] = []
        self.closed = False

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        self.random = np.random.default_rng(seed)
        self.position, self.taken = float(self.random.normal()), 0
        return self._obs(), {}

    def step(self, action):
        self.actions.append(float(action[0]))
        self.position = 0.9 * self.position + float(action[0]) + 0.1 * float(self.random.normal())
        self.taken += 1
        over = self.taken == self.length
        return self._obs(), float(action[0]), over and self.ends == "terminated", over and self.ends == "truncated", {}

    def close(self):
        self.closed = True

    def _obs(self):
        return np.array([self.position, self.taken], dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class ToyConfig(Config):
    lr: float = 0.01
    batch_size: int = 8
    random_steps: int = 4


class Toy(Agent[ToyConfig]):
    """A linear policy and critic; noisy, so that it shows which random stream it draws from."""

    Config = ToyConfig

    def __init__(self, obs_dim, act_dim, config):
        super().__init__(obs_dim, act_dim, config)
        self.actor = nn.Linear(obs_dim, act_dim)
        self.critic = nn.Linear(obs_dim + act_dim, 1)

    def optimisers(self) -> Mapping[str, Adam]:
        return {"critic": Adam(self.config.lr), "actor": Adam(self.config.lr)}

    def act(self, obs, explore):
        action = torch.tanh(self.actor(obs))
        return (action + 0.1 * torch.randn_like(action)).clamp(-1, 1) if explore else action

    def critic_loss(self, batch):
        q = self.critic(torch.cat([batch.obs, batch.action], -1)).squeeze(-1)
        noise = 0.01 * torch.randn_like(q)
        return (q - batch.reward - 0.5 * batch.discount + noise).square().mean(), {"q": q.mean()}

    def actor_loss(self, batch):
        return -self.critic(torch.cat([batch.obs, torch.tanh(self.actor(batch.obs))], -1)).mean(), {}

    def update(self, batch, learner, phase):
        learner.minimise("critic", self.critic_loss, batch)
        learner.minimise("actor", self.actor_loss, batch)


def put_run(root: Path, cell: Cell, status: Status = "done", group: list[int] | None = None, **changes: object) -> Path:
    """A run's folder with its record, as the scheduler or a worker leaves it."""
    folder = root / cell.path
    records.write_run(folder, replace_fields(RunRecord.of(cell, group or [cell.seed]), status=status, **changes))
    return folder


TINY = "hidden=8,batch_size=4,random_steps=20"
EXAMPLE = f"{Path(__file__).with_name('example_algorithm.py')}:DDPG"


def make_suite(name="mini", tasks=("Pendulum-v1",), source="gymnasium", steps=40, every=20, episodes=1, **more):
    """A suite as if read from a file."""
    score = suites.Score(-1500.0, 0.0)
    made = tuple(suites.Task(task, source, 1, score) for task in tasks)
    return suites.Suite(name, "Mini", made, steps, suites.Evaluation(every, episodes), **more)


def make_cell(algo="td3", *, seed=0, suite=None, task=None, target=None, label=None, config=None, **changes):
    """A cell of tiny networks; `changes` are hyperparameters, or steps, every and episodes."""
    suite = suite or make_suite()
    entry = algos.Entry(algo, target) if target else algos.find(algo)
    protocol = Protocol(suite.steps, suite.evaluation.every, suite.evaluation.episodes)
    protocol = replace(protocol, **{key: changes.pop(key) for key in ("steps", "every", "episodes") if key in changes})
    if config is None:
        values = {"hidden": 8, "batch_size": 4, "random_steps": 20, **changes}
        config = entry.load().Config(**values)
    return Cell(suite, task or suite.tasks[0], Variant(entry, config, protocol, label or entry.name), seed)


def write_suite(folder: Path, name="mini", **changes: object) -> str:
    """A suite file of two small DMControl tasks; `changes` replace or add keys. Returns its path."""
    import yaml

    document = {
        "title": "Mini",
        "source": "dm_control",
        "action_repeat": 1,
        "steps": 300,
        "evaluation": {"every": 150, "episodes": 1},
        "score": {"low": 0, "high": 1000},
        "tasks": ["cartpole-balance", "pendulum-swingup"],
        "overrides": {name: {"random_steps": 20} for name in ("flowrl", "sac", "td3", "qvpo")},
        **changes,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return str(path)


def write_algorithm(folder: Path, name: str, update: str, head: str = "") -> str:
    """A file with one algorithm, TD3 but for the body of `update`. Returns its spec, path:Class."""
    path = folder / f"{name.lower()}.py"
    body = "\n".join("        " + line for line in update.splitlines())
    path.write_text(
        f"import os, signal, sys, time\nfrom dataclasses import dataclass\n"
        f"from algos.td3 import TD3, TD3Config\n{head}\n\n"
        f"@dataclass(frozen=True, kw_only=True)\nclass {name}Config(TD3Config):\n    random_steps: int = 20\n\n"
        f"class {name}(TD3):\n    Config = {name}Config\n    calls = 0\n\n"
        f"    def update(self, batch, learner, phase):\n"
        f"        type(self).calls += 1\n{body}\n"
        f"        super().update(batch, learner, phase)\n",
        encoding="utf-8",
    )
    return f"{path}:{name}"


def without_clock(path: Path) -> str:
    """A CSV file's text less its wall-clock columns."""
    lines = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    kept = [i for i, column in enumerate(lines[0]) if column not in ("seconds", "steps_per_second")]
    assert len(kept) < len(lines[0])
    return "\n".join(",".join(line[i] for i in kept) for line in lines)
