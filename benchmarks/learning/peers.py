"""Trains Stable-Baselines3's SAC and TD3 on a suite, and stores the runs in the results folder as other algorithms.

    python benchmarks/learning/peers.py --suite benchmarks/learning/side-by-side.yaml --algo sb3-sac,sb3-td3 --seeds 5

Networks, batch size, random phase, learning rate and evaluation are those of our SAC and TD3 on the same suite.
Finished runs are skipped. Needs the extra `peers`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from msgspec.structs import replace
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise

import algos
import suites
from flowbench.common import system
from flowbench.common.rng import stream_seed
from flowbench.plan.cells import Cell, Variant
from flowbench.plan.expand import expand
from flowbench.store import lock, records
from flowbench.store.csv_rows import RowWriter
from flowbench.store.records import MachineInfo, RunRecord

OURS = {"sb3-sac": "sac", "sb3-td3": "td3"}


@dataclass(frozen=True)
class PeerConfig:
    """The peer's hyperparameters: those of our algorithm on the same suite."""

    hidden: int
    lr: float
    batch_size: int
    gamma: float
    tau: float
    random_steps: int
    replay_size: int
    stable_baselines3: str


def cells(suite: str, names: list[str], seeds: str, tasks: list[str]) -> list[Cell]:
    """The peer's cells: those of our algorithm with the peer as the algorithm."""
    found = []
    for name in names:
        for cell in expand(suite, [OURS[name]], seeds, tasks=tasks):
            ours = cell.variant.config
            same = {key: getattr(ours, key) for key in PeerConfig.__annotations__ if hasattr(ours, key)}
            config = PeerConfig(**same, stable_baselines3=version("stable_baselines3"))
            target = f"stable_baselines3:{'SAC' if name == 'sb3-sac' else 'TD3'}"
            variant = Variant(algos.Entry(name, target), config, cell.variant.protocol, name)
            found.append(Cell(cell.suite, cell.task, variant, cell.seed))
    return sorted(found, key=lambda cell: cell.seed)


def build(cell: Cell, env: Any) -> Any:
    """The peer's agent."""
    c: PeerConfig = cell.variant.config
    same: dict[str, Any] = {
        "learning_rate": c.lr,
        "batch_size": c.batch_size,
        "gamma": c.gamma,
        "tau": c.tau,
        "learning_starts": c.random_steps,
        "buffer_size": min(c.replay_size, cell.variant.protocol.steps),
        "policy_kwargs": {"net_arch": [c.hidden, c.hidden]},
        "seed": cell.seed,
        "device": "cpu",
    }
    if cell.variant.entry.name == "sb3-sac":
        return SAC("MlpPolicy", env, **same)
    size = env.action_space.shape[0]
    noise = NormalActionNoise(np.zeros(size), np.full(size, 0.1))
    return TD3("MlpPolicy", env, action_noise=noise, train_freq=1, gradient_steps=1, **same)


class Evaluate(BaseCallback):
    """Evaluates the peer's deterministic policy as flowbench does, with the same seeds of the episodes."""

    def __init__(self, cell: Cell, make: Callable[[], Any], writer: RowWriter) -> None:
        super().__init__()
        self._cell = cell
        self._env = make()
        self._writer = writer
        self._started = time.perf_counter()

    def _on_step(self) -> bool:
        protocol = self._cell.variant.protocol
        if self.num_timesteps % protocol.every == 0:
            returns = [self._episode(k) for k in range(protocol.episodes)]
            self._writer.append(
                {
                    "step": self.num_timesteps,
                    "mean": float(np.mean(returns)),
                    "std": float(np.std(returns)),
                    **{f"return_{k}": value for k, value in enumerate(returns)},
                    "seconds": time.perf_counter() - self._started,
                }
            )
        return True

    def _episode(self, k: int) -> float:
        seed = stream_seed(self._cell.seed, "evaluation", self.num_timesteps, k)
        obs, _ = self._env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            action, _ = self.model.predict(obs, deterministic=True)
            obs, reward, terminated, truncated, _ = self._env.step(action)
            total += reward
            over = terminated or truncated
        return total


def train(cell: Cell, root: Path) -> str:
    """Train one cell unless it is done, and describe that in one line."""
    torch.set_num_threads(1)
    folder = root / cell.path
    folder.mkdir(parents=True, exist_ok=True)
    if records.status(folder) == "done":
        return f"{cell}: already done"
    started = time.perf_counter()
    with lock.hold(folder):
        run = replace(
            RunRecord.of(cell, [cell.seed]),
            status="running",
            started=records.now(),
            device="cpu",
            versions={**system.versions(), "stable_baselines3": version("stable_baselines3")},
            machine=MachineInfo(system.cpu_model(), system.cores(), threads=1),
        )
        records.write_run(folder, run)
        episodes = [f"return_{k}" for k in range(cell.variant.protocol.episodes)]
        writer = RowWriter(folder / "evals.csv", ["step", "mean", "std", *episodes, "seconds"])
        model = build(cell, suites.make(cell.task))
        model.learn(cell.variant.protocol.steps, callback=Evaluate(cell, lambda: suites.make(cell.task), writer))
        writer.close()
        seconds = time.perf_counter() - started
        records.write_run(folder, replace(run, status="done", ended=records.now(), seconds=seconds))
    return f"{cell}: {seconds:.0f} s"


def main() -> None:
    """Read the command line and train, each cell in its own process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--algo", default=",".join(OURS))
    parser.add_argument("--task", action="append", default=[])
    parser.add_argument("--seeds", default="5")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--jobs", type=int, default=system.cores())
    given = parser.parse_args()
    due = cells(given.suite, given.algo.split(","), given.seeds, given.task)
    parallel = joblib.Parallel(n_jobs=given.jobs, return_as="generator_unordered")
    for line in parallel(joblib.delayed(train)(cell, given.results) for cell in due):
        print(line, flush=True)


if __name__ == "__main__":
    main()
