"""Trained weights: `<run>/weights.safetensors`, with what it takes to build their agent in the file's metadata.

Reading them executes nothing: safetensors holds tensors and text, and the text here is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowbench import __version__
from flowbench.common.errors import UsageError
from flowbench.store import atomic, checkpoint, records

if TYPE_CHECKING:
    from torch import Tensor

FILE = "weights.safetensors"
RECORDED = ("suite", "task", "algo", "config_id", "config", "protocol", "seed", "threads")  # of the run's record


@dataclass(frozen=True)
class Trained:
    """An agent's weights, its state_dict, and where they come from."""

    source: Path
    run: Mapping[str, Any]  # what is `RECORDED` of its run
    step: int
    obs_dim: int
    act_dim: int
    weights: Mapping[str, Tensor]


def write(
    folder: Path, run: Mapping[str, Any], step: int, obs_dim: int, act_dim: int, weights: Mapping[str, Tensor]
) -> None:
    """Write the weights of a run, a state_dict on the CPU, in one step."""
    from safetensors.torch import save

    said = {"schema": records.SCHEMA, "flowbench": __version__, "step": step, "obs_dim": obs_dim, "act_dim": act_dim}
    said |= {key: run[key] for key in RECORDED}
    atomic.replace(folder / FILE, save(dict(weights), {key: json.dumps(value) for key, value in said.items()}))


def find(name: str, root: Path) -> Trained:
    """The weights that a name stands for: a weights file, or a run's folder, given as it is or below `root`.

    Of a run they are those that were kept when it finished, else those of its newest checkpoint. Raises UsageError.
    """
    path = next((path for path in (Path(name), root / name) if path.exists()), None)
    if path is None:
        raise UsageError(f"there is no run {name!r}, neither here nor in the results folder {str(root)!r}")
    if path.is_file():
        return _read(path)
    if (path / FILE).is_file():
        return _read(path / FILE)
    return _of_checkpoint(path)


def _read(path: Path) -> Trained:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            said = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise UsageError(f"weights file {str(path)!r} cannot be read: {error}") from error
    try:
        records.check(said | {"status": "done"}, path)
    except records.NotARun as error:
        raise UsageError(f"{error}: no weights of flowbench") from error
    numbers = {key: said.get(key) for key in ("step", "obs_dim", "act_dim", "threads")}
    numbers["episodes"] = said["protocol"].get("episodes")
    if not all(isinstance(number, int) and 0 < number < 2**53 for number in numbers.values()) or said["seed"] < 0:
        raise UsageError(f"{path}: {numbers}: no weights of flowbench")
    return Trained(path, said, said["step"], said["obs_dim"], said["act_dim"], weights)


def _of_checkpoint(folder: Path) -> Trained:
    from flowbench.common.tensors import under

    try:
        run = records.read_run(folder)
        status = records.status(folder)
    except records.NotARun as error:
        raise UsageError(f"{str(folder)!r} is no run's folder ({error})") from error
    found = checkpoint.newest([folder])
    if not found:
        raise UsageError(
            f"no weights are left of the run in {str(folder)!r} ({status}): flowbench run keeps them with "
            "--keep-weights or --keep-checkpoints; with --force it trains anew what is done"
        )
    state = found[0].state
    obs_dim, act_dim = state["episode.obs"].shape[-1], state["episode.actions"].shape[-1]
    weights = under("agent", under("learner", state))
    return Trained(folder / checkpoint.FOLDER, run, found[0].step, obs_dim, act_dim, weights)
