"""Returns of a uniformly random policy on the tasks of humanoid-bench, compared with the suite's score bounds.

    python benchmarks/humanoid_random.py --episodes 10 --seeds 10 --jobs 2 > benchmarks/humanoid-random.md

Needs the extra `humanoid` and HumanoidBench itself (docs/suites.md).
"""

from __future__ import annotations

import argparse
import time
from datetime import date
from typing import NamedTuple

import joblib
import numpy as np

import suites
from flowbench.common import system

SUITE = "humanoid-bench"


class Played(NamedTuple):
    """All episodes of one task: [seed, episode]."""

    returns: np.ndarray
    lengths: np.ndarray
    seconds: float


def play(task: suites.Task, seeds: int, episodes: int) -> Played:
    env = suites.make(task)
    returns, lengths = np.zeros((seeds, episodes)), np.zeros((seeds, episodes), dtype=int)
    began = time.perf_counter()
    for seed, episode in np.ndindex(seeds, episodes):
        random = np.random.default_rng([seed, episode])
        env.reset(seed=int(random.integers(2**32)))
        over = False
        while not over:
            action = random.uniform(-1.0, 1.0, env.action_space.shape).astype(np.float32)
            _, reward, terminated, truncated, _ = env.step(action)
            returns[seed, episode] += reward
            lengths[seed, episode] += 1
            over = terminated or truncated
    env.close()
    return Played(returns, lengths, time.perf_counter() - began)


def row(task: suites.Task, played: Played) -> str:
    bar = suites.success(task)
    of_seeds = played.returns.mean(axis=1)
    error = of_seeds.std(ddof=1) / np.sqrt(len(of_seeds)) if len(of_seeds) > 1 else np.nan
    cells = [
        task.name,
        f"{of_seeds.mean():.3f}",
        f"{error:.3f}",
        f"{task.score.low:g}",
        f"{played.lengths.mean():.0f}",
        f"{(played.returns >= bar).mean():.2f}",
        f"{bar:g}",
        f"{1000 * played.seconds / played.lengths.sum():.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Returns of a random policy on HumanoidBench, as a Markdown table.")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1, help="concurrent tasks")
    asked = parser.parse_args()
    tasks = suites.load(SUITE).tasks
    suites.require("humanoid_bench")
    played = joblib.Parallel(n_jobs=asked.jobs)(joblib.delayed(play)(t, asked.seeds, asked.episodes) for t in tasks)
    used = system.versions(suites.packages("humanoid_bench"))
    print(f"# A random policy on {SUITE}\n")
    print(f"`python benchmarks/humanoid_random.py --episodes {asked.episodes} --seeds {asked.seeds}`, {date.today()}.")
    print(", ".join(f"{name} {used[name]}" for name in ("humanoid_bench", "mujoco", "gymnasium", "numpy", "python")))
    print(f"on {system.cpu_model()}. Actions are uniform in [-1, 1].\n")
    columns = "mean return | standard error | suite's score 0 | steps | success rate | return of success | ms per step"
    print(f"| task | {columns} |")
    print("| --- |" + " ---: |" * 7)
    for task, of_task in zip(tasks, played, strict=True):
        print(row(task, of_task))


if __name__ == "__main__":
    main()
