"""Frames as the store gives them, made of scores."""

import pandas as pd

from flowbench import stats


def grid(scores, *, algo="sac", config_id="c0ffee0123", step=100, **run):
    """Both frames for one algorithm: {task: {seed: score or [(step, score), ...]}}; returns are score * 1000."""
    runs, evals = [], []
    for task, seeds in scores.items():
        for seed, points in seeds.items():
            key = {"suite": "quick", "task": task, "algo": algo, "config_id": config_id, "seed": seed}
            runs.append(key | {"status": "done", "steps": step, "every": 10, "error": ""} | run)
            points = points if isinstance(points, list) else [(step, points)]
            evals += [key | {"step": at, "mean": score * 1000, "score": score} for at, score in points]
    frame = pd.DataFrame(evals, columns=[*stats.RUN, "step", "mean", "score"])
    return pd.DataFrame(runs), frame.astype({"seed": int, "step": int, "mean": float, "score": float})


def join(*grids):
    return tuple(pd.concat(frames, ignore_index=True) for frames in zip(*grids, strict=True))


def table_of(*grids, step=100):
    return stats.at_step(*join(*grids), step)
