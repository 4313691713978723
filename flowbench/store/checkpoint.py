"""Checkpoints: from them an interrupted run resumes and gives the same numbers as an uninterrupted one.

    <run>/checkpoint/<step>.json                          which files and rows belong to it, with their SHA-256
                     <step>.state.safetensors             weights, optimisers, random streams, the episode in flight
                     <from>-<to>.replay.safetensors       transitions, each written once

The JSON file is written last, so a checkpoint is complete or absent. Two are kept. Reading one executes no code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowbench.common.errors import name_file
from flowbench.store import atomic
from flowbench.store.csv_rows import TABLES

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "checkpoint"
SCHEMA = 2
KEPT = 2  # generations


class Damaged(ValueError):
    """A checkpoint with a file that is missing, truncated or changed."""


@dataclass(frozen=True)
class Checkpoint:
    """What was saved of one cell at a step."""

    step: int
    tables: Mapping[str, int]  # bytes of each CSV file that belong to it
    state: dict[str, Tensor]
    transitions: list[dict[str, Tensor]]


@dataclass(frozen=True)
class Snapshot:
    """A copy of what a checkpoint of one cell needs. It does not change while training continues."""

    step: int
    tables: Mapping[str, int]  # bytes of each CSV file that belong to it
    state: bytes
    transitions: bytes  # those since the checkpoint before
    replay: str  # the file that they go to
    oldest: int  # the number of the oldest transition that replay holds


def steps(run: Path) -> list[int]:
    """The steps of a run's checkpoints, oldest first, unverified; none if the folder is a link."""
    if (run / FOLDER).is_symlink():
        return []
    names = [path.stem for path in (run / FOLDER).glob("*.json")]
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))


def load(run: Path, step: int) -> Checkpoint:
    """The checkpoint of a step. Raises Damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    manifest = _manifest(run, step)
    parsed = {}
    for name, digest in manifest["files"].items():
        try:
            if _digest(run / FOLDER / name) != digest:
                raise Damaged(f"{run / FOLDER / name} has changed since it was written")
            parsed[name] = load_file(run / FOLDER / name)  # memory-mapped, because transitions may be gigabytes
        except (OSError, SafetensorError) as error:
            raise Damaged(f"{run / FOLDER / name}: {error}") from error
    sizes = {table: rows["bytes"] for table, rows in manifest["tables"].items()}
    for table, size in sizes.items():
        path = run / table
        if path.is_symlink() or not path.is_file() or path.stat().st_size < size:
            raise Damaged(f"{path} is missing, a link or truncated")
        if _digest(path, size) != manifest["tables"][table]["sha256"]:
            raise Damaged(f"{path} has other rows than the checkpoint")
    replay = sorted((_range(name), name) for name in parsed if name.endswith(".replay.safetensors"))
    return Checkpoint(step, sizes, parsed[_state_name(step)], [parsed[name] for _, name in replay])


def newest(runs: Sequence[Path]) -> list[Checkpoint]:
    """The newest undamaged checkpoints that all of these runs have at the same step; empty if there are none.

    A damaged one is skipped, with a line on standard error.
    """
    common = set.intersection(*(set(steps(run)) for run in runs))
    for step in sorted(common, reverse=True):
        try:
            return [load(run, step) for run in runs]
        except Damaged as damage:
            print(f"the checkpoint of step {step} is skipped: {damage}", file=sys.stderr)
    return []


def remove(run: Path) -> None:
    """Remove every checkpoint of a run, and anything else with the folder's name."""
    _discard(run / FOLDER)


@dataclass
class Writer:
    """Writes the checkpoints of one run."""

    run: Path
    _replay: dict[str, str] = field(default_factory=dict)  # the files of transitions written so far, with their SHA-256

    @classmethod
    def resume(cls, run: Path, step: int) -> Writer:
        """A writer that continues after a checkpoint; later checkpoints are removed."""
        writer = cls(run)
        files = _manifest(run, step)["files"]
        writer._replay = {name: digest for name, digest in files.items() if name.endswith(".replay.safetensors")}
        for later in steps(run):
            if later > step:
                _discard(run / FOLDER / f"{later}.json")
        writer._prune()
        return writer

    def snapshot(
        self,
        step: int,
        tables: Sequence[str],
        state: Mapping[str, Tensor],
        transitions: Callable[[int], Mapping[str, Tensor]],
        held: int,
    ) -> Snapshot:
        """Copy what a checkpoint needs, so that training may continue while `write` writes it.

        `transitions(start)` returns those from a number on; `held` is how many replay holds. The checkpoint before this
        one must have been written.
        """
        sizes = {name: (self.run / name).stat().st_size for name in tables}
        chunk = transitions(max((_range(name)[1] for name in self._replay), default=0))
        start, stop = (int(number) for number in chunk["numbers"])
        return Snapshot(step, sizes, _bytes(state), _bytes(chunk), f"{start}-{stop}.replay.safetensors", stop - held)

    def write(self, snapshot: Snapshot) -> None:
        """Write a checkpoint. One that cannot be written leaves no files."""
        folder, step = self.run / FOLDER, snapshot.step
        folder.mkdir(exist_ok=True)
        try:
            tables = {name: _synced(self.run / name, size) for name, size in snapshot.tables.items()}
            self._replay[snapshot.replay] = _write(folder / snapshot.replay, snapshot.transitions)
            self._replay = {name: digest for name, digest in self._replay.items() if _range(name)[1] > snapshot.oldest}
            files = {_state_name(step): _write(folder / _state_name(step), snapshot.state), **self._replay}
            manifest = {"schema": SCHEMA, "step": step, "tables": tables, "files": files}
            atomic.replace(folder / f"{step}.json", (json.dumps(manifest, indent=1) + "\n").encode())
            _sync_folder(folder)
        finally:
            self._prune()

    def _prune(self) -> None:
        """Remove the files that no kept checkpoint needs."""
        folder = self.run / FOLDER
        kept = steps(self.run)[-KEPT:]
        needed = {f"{step}.json" for step in kept}
        for step in kept:
            try:
                needed |= _manifest(self.run, step)["files"].keys()
            except Damaged:
                continue
        for path in folder.iterdir():
            if path.name not in needed:
                _discard(path)


def _manifest(run: Path, step: int) -> dict[str, Any]:
    path = run / FOLDER / f"{step}.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["schema"] != SCHEMA:
            raise ValueError(f"schema {manifest['schema']!r}; this flowbench reads schema {SCHEMA}")
        right = manifest["step"] == step and _state_name(step) in manifest["files"]
        names, rows = manifest["files"].keys(), manifest["tables"]
        tables = rows.keys() == set(TABLES) and all(type(of["bytes"]) is int and of["sha256"] for of in rows.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{path}: {error}") from error
    # Names are checked, so that no path leads outside the run's folder.
    valid_names = all(isinstance(name, str) and re.fullmatch(r"[\w-]+(\.\w+)+", name) for name in names)
    if not (right and tables and valid_names):
        raise Damaged(f"{path} is not a checkpoint of flowbench")
    return dict(manifest)


def _state_name(step: int) -> str:
    return f"{step}.state.safetensors"


def _range(name: str) -> tuple[int, int]:
    """The numbers of the first transition in a file and of the one after the last."""
    match = re.fullmatch(r"(\d+)-(\d+)\.replay\.safetensors", name)
    if match is None:
        raise Damaged(f"{name} is not a file of transitions")
    return int(match[1]), int(match[2])


def _bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors in the format of safetensors."""
    from safetensors.torch import save

    content: bytes = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    return content


def _write(path: Path, content: bytes) -> str:
    """Write a file and return its SHA-256."""
    atomic.write_and_sync(path, content)
    return hashlib.sha256(content).hexdigest()


def _discard(path: Path) -> None:
    """Remove a file, a folder or a link, but never the target of a link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _digest(path: Path, size: int | None = None) -> str:
    """SHA-256 of a file, or of its first `size` bytes."""
    found = hashlib.sha256()
    left = path.stat().st_size if size is None else size
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            found.update(block)
            left -= len(block)
    return found.hexdigest()


def _synced(path: Path, size: int) -> dict[str, int | str]:
    """Size and SHA-256 of the first `size` bytes of a file that is appended to, after they were written to disk."""
    with name_file(path), path.open("rb") as file:
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": _digest(path, size)}


def _sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
