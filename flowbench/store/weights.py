"""Trained weights: `<run>/weights.safetensors`, with what is needed to build their agent in the file's metadata.

Reading them executes no code: safetensors holds tensors and text, and the text is JSON.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flowbench import __version__
from flowbench.common.errors import UsageError
from flowbench.store import atomic, checkpoint, records
from flowbench.store.records import RunRecord

if TYPE_CHECKING:
    from torch import Tensor

FILE = "weights.safetensors"
RECORDED = ("suite", "task", "algo", "config_id", "config", "protocol", "seed", "threads")  # of the run's record


@dataclass(frozen=True)
class Trained:
    """An agent's weights, its state_dict, and the run they come from."""

    source: Path
    run: RunRecord  # from a weights file: the keys in `RECORDED`
    step: int
    obs_dim: int
    act_dim: int
    weights: Mapping[str, Tensor]


def write(folder: Path, run: RunRecord, step: int, obs_dim: int, act_dim: int, weights: Mapping[str, Tensor]) -> None:
    """Write the weights of a run, a state_dict on the CPU, in one step."""
    from safetensors.torch import save

    metadata = {
        "schema": records.SCHEMA,
        "flowbench": __version__,
        "step": step,
        "obs_dim": obs_dim,
        "act_dim": act_dim,
    }
    values = run.to_builtins()
    metadata |= {key: values[key] for key in RECORDED}
    content = save(dict(weights), {key: json.dumps(value) for key, value in metadata.items()})
    atomic.replace(folder / FILE, _in_order(content))


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its metadata sorted: the library writes it in random order.

    The file begins with the length of its header; the header is JSON, padded with spaces to a multiple of eight bytes.
    """
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header = {"__metadata__": dict(sorted(header.pop("__metadata__").items())), **header}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def find(name: str, root: Path) -> Trained:
    """The weights of a weights file, or of a run's folder, given as a path or as a path below `root`.

    A run's weights are those kept when it finished, otherwise those of its newest checkpoint. Raises UsageError.
    """
    path = next((path for path in (Path(name), root / name) if path.exists()), None)
    if path is None:
        raise UsageError(f"there is no run {name!r}, neither here nor in the results folder {str(root)!r}")
    if path.is_file():
        return _read(path)
    if (path / FILE).is_file():
        return _read(path / FILE)
    return _from_checkpoint(path)


def _read(path: Path) -> Trained:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise UsageError(f"weights file {str(path)!r} cannot be read: {error}") from error
    try:
        run = RunRecord.parse(metadata | {"status": "done"})
    except ValueError as error:
        raise UsageError(f"{path}: not a weights file of flowbench: {error}") from error
    numbers = {key: metadata.get(key) for key in ("step", "obs_dim", "act_dim", "threads")}
    numbers["episodes"] = run.protocol.episodes
    if not all(isinstance(number, int) and 0 < number < 2**53 for number in numbers.values()) or run.seed < 0:
        raise UsageError(f"{path}: not a weights file of flowbench: {numbers}")
    return Trained(path, run, metadata["step"], metadata["obs_dim"], metadata["act_dim"], weights)


def _from_checkpoint(folder: Path) -> Trained:
    from flowbench.common.tensors import under

    try:
        run = records.read_run(folder)
        status = records.status(folder)
    except records.NotARun as error:
        raise UsageError(f"{str(folder)!r} is not a run's folder ({error})") from error
    found = checkpoint.newest([folder])
    if not found:
        raise UsageError(
            f"the run in {str(folder)!r} ({status}) has no weights: flowbench run keeps them with --keep-weights or "
            "--keep-checkpoints; add --force to train a finished run again"
        )
    state = found[0].state
    obs_dim, act_dim = state["episode.obs"].shape[-1], state["episode.actions"].shape[-1]
    weights = under("agent", under("learner", state))
    return Trained(folder / checkpoint.FOLDER, run, found[0].step, obs_dim, act_dim, weights)
