"""What is in a results folder: its variants, what differs between two, which are dead, and merging folders."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

import algos
from flowbench.common.errors import UsageError
from flowbench.common.text_table import plural, ranges
from flowbench.store import lease, lock, records
from flowbench.store.csv_rows import TABLES
from flowbench.store.load import Selection, check_root, selects
from flowbench.store.records import NotARun, RunRecord

ASIDE = "replaced-*-seed-*"  # finished runs that `flowbench run --force` has kept
_NOT_COPIED = (lock.NAME, lease.FOLDER, f"{lease.FOLDER}-*")


@dataclass
class StoredVariant:
    """The runs of one variant of a suite."""

    suite: str
    label: str
    config_id: str
    folders: list[Path] = field(default_factory=list)
    runs: list[RunRecord] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.suite} {self.label} ({self.config_id}), {plural(len(self.runs), 'run')}"

    def statuses(self) -> str:
        """How many runs have which status, as ``5 done, 1 failed``."""
        found = [records.status_now(*each) for each in zip(self.folders, self.runs, strict=True)]
        return ", ".join(f"{found.count(each)} {each}" for each in records.STATUSES if each in found)

    def size(self) -> int:
        """The bytes of all files of the runs."""
        return sum(path.stat().st_size for folder in self.folders for path in folder.rglob("*") if path.is_file())

    def ended(self) -> str:
        """When the last of the runs ended, in UTC; empty if none has."""
        return max((run.ended or "" for run in self.runs), default="")[:16].replace("T", " ")


def variants(root: Path, suite_names: Sequence[str] = (), algo_names: Sequence[str] = ()) -> list[StoredVariant]:
    """The variants below a results folder, or those of the named suites and algorithms. Raises UsageError."""
    check_root(root)
    selection = Selection(suite_names, algo_names)
    found: dict[tuple[str, str, str], StoredVariant] = {}
    for folder, run in _readable(root):
        if selection.accepts(run):
            key = (run.suite.name, run.algo.label, run.config_id)
            variant = found.setdefault(key, StoredVariant(*key))
            variant.folders.append(folder)
            variant.runs.append(run)
    selection.check(root)
    return list(found.values())


def find(root: Path, name: str, suite_names: Sequence[str] = ()) -> StoredVariant:
    """The variant with this config id or label, of the run in this folder, or that `run --algo` would mean by this.

    Raises UsageError.
    """
    known = variants(root, suite_names)
    folder = next((path.resolve() for path in (Path(name), root / name) if (path / "run.json").is_file()), None)
    found = [
        each
        for each in known
        if name in (each.config_id, each.label) or folder in [path.resolve() for path in each.folders]
    ]
    if not found:
        texts = [(each, each.runs[0].algo.name, each.runs[0].config) for each in known]
        found = [each for each, algo, config in texts if selects(name, algo, each.label, each.config_id, config)]
    if not found:
        choices = ", ".join(f"{each.config_id} ({each.suite} {each.label})" for each in known) or "none"
        raise UsageError(f"{root}: no variant is called {name!r}; give its config id (choices: {choices})")
    if len(found) > 1:
        raise UsageError(
            f"{name!r} is ambiguous: name its suite with --suite, or give its config id: {'; '.join(map(str, found))}"
        )
    return found[0]


def run_folder(root: Path, name: str) -> Path:
    """The folder of a run, given as a path or as a path below `root`. Raises UsageError."""
    for path in (Path(name), root / name):
        if (path / "run.json").is_file():
            return path
    raise UsageError(f"{name!r} is not a run's folder, neither here nor in the results folder {str(root)!r}")


def facts(run: RunRecord) -> dict[str, str]:
    """What a run.json says, one line for each value: ``config.lr`` is 0.001."""

    def flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict) and value:
            for key, each in value.items():
                yield from flat(f"{prefix}.{key}" if prefix else key, each)
        else:
            yield prefix, value if isinstance(value, str) else json.dumps(value)

    return dict(flat("", run.to_builtins()))


# Of one run: they are different in each, or are no setting.
_OF_A_RUN = {
    "status", "task", "seed", "group", "started", "ended", "error", "pid", "startup", "wall", "seconds", "memory",
    "attempts", "resumed", "began", "schema", "keep_checkpoints", "keep_weights", "log", "timeout", "auto",
    "success_from", "parameters", "sizes",
}  # fmt: skip


def differences(one: StoredVariant, other: StoredVariant) -> list[tuple[str, str, str]]:
    """Each setting that differs between two variants, with its values in both; runs that differ give several values."""
    columns = [_settings(each) for each in (one, other)]
    keys = dict.fromkeys(key for column in columns for key in column)
    first, second = ({key: " | ".join(sorted(column.get(key, {"-"}))) for key in keys} for column in columns)
    return [(key, first[key], second[key]) for key in keys if first[key] != second[key]]


def _settings(variant: StoredVariant) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    seeds: dict[str, set[int]] = {}
    for run in variant.runs:
        values = {key: value for key, value in facts(run).items() if key.partition(".")[0] not in _OF_A_RUN}
        task = msgspec.to_builtins(run.task)
        values |= {f"task.{run.task.name}.{key}": json.dumps(value) for key, value in task.items() if key != "name"}
        for key, value in values.items():
            found.setdefault(key, set()).add(value)
        seeds.setdefault(run.task.name, set()).add(run.seed)
    return found | {f"seeds.{task}": {ranges(own)} for task, own in seeds.items()}


# Removal


def dead(root: Path) -> list[tuple[str, list[Path]]]:
    """What no command can continue or repeat: the reason, and the folders of the runs.

    These are variants of an algorithm's file that has been edited, and runs replaced with `--force`. A file that is not
    here may be on the machine where the runs were trained.
    """
    found = []
    for variant in variants(root):
        reasons = [_why_dead(run) for run in variant.runs]
        if all(reasons):  # merged runs may name the same file by other paths: one of them is enough
            found.append((f"{variant}: {reasons[0]}", variant.folders))
    aside = sorted(path.parent for path in root.glob(f"*/*/*/*/{ASIDE}/run.json"))
    return [*found, (f"{plural(len(aside), 'run')} replaced with --force", aside)] if aside else found


def _why_dead(run: RunRecord) -> str:
    if run.published or run.algo.sha256 is None:
        return ""
    try:
        now = algos.Entry(run.algo.name, run.algo.target).digest()
    except algos.AlgorithmError:
        return ""
    return "" if now == run.algo.sha256 else f"{run.algo.target} has been edited since"


def remove(root: Path, folders: Sequence[Path]) -> list[Path]:
    """Remove runs, and folders that are empty then. Returns the folders of runs in training, which stay.

    Raises UsageError, before anything is removed, for a folder that is reached through a link below `root`.
    """
    for folder in folders:
        links = [each for each in (folder, *list(folder.parents)[:4]) if each != root and each.is_symlink()]
        if links:
            raise UsageError(f"{str(links[0])!r} is a link: remove the runs in the folder that it leads to")
    kept = []
    for folder in folders:
        try:
            with lock.hold(folder):
                aside = folder.with_name(f".removed-{secrets.token_hex(4)}-{folder.name}")
                folder.rename(aside)
        except lock.Busy:
            kept.append(folder)
            continue
        shutil.rmtree(aside)
        for parent in list(folder.parents)[:4]:
            if parent == root or any(parent.iterdir()):
                break
            parent.rmdir()
    return kept


# Merging


@dataclass
class Merged:
    """What became of the runs of other results folders: paths below them, conflicts with the reason."""

    copied: list[Path] = field(default_factory=list)
    there_already: list[Path] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def merge(sources: Sequence[Path], root: Path) -> Merged:
    """Copy the runs of other results folders into `root`; nothing there is overwritten, except queued cells.

    A conflict is another run of the same cell, or a task that was run with other settings. Raises UsageError.
    """
    for source in sources:
        check_root(source)
        if root.exists() and source.resolve() == root.resolve():
            raise UsageError(f"{str(source)!r} is the results folder itself: name folders of other machines")
    merged = Merged()
    tasks: dict[tuple[str, str], RunRecord] = {}
    if root.is_dir():
        for _, run in _readable(root):
            tasks.setdefault((run.suite.name, run.task.name), run)
    for source in sources:
        for folder, run in _readable(source, merged.left_out.append):
            _merge(folder, run, root, tasks, merged)
    return merged


def _merge(folder: Path, run: RunRecord, root: Path, tasks: dict[tuple[str, str], RunRecord], merged: Merged) -> None:
    below = Path(*folder.parts[-5:])
    target = root / below
    status = records.status_now(folder, run)
    if status in ("queued", "running"):
        merged.left_out.append(f"{folder}: {status}")
        return
    there = records.read_if_valid(target)
    replaces = there is not None and records.status_now(target, there) == "queued"
    if (target / "run.json").exists() and not replaces:
        if all(_content(folder / name) == _content(target / name) for name in ("run.json", *TABLES)):
            merged.there_already.append(below)
        else:
            merged.conflicts.append(f"{folder}: {target} is another run of the same cell")
        return
    first = tasks.setdefault((run.suite.name, run.task.name), run)
    if first.task != run.task:
        merged.conflicts.append(f"{folder}: {run.task.name} has {_changed(first, run)} in {root}")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".merged-{secrets.token_hex(4)}-{target.name}")
    try:
        shutil.copytree(folder, scratch, symlinks=True, ignore=shutil.ignore_patterns(*_NOT_COPIED))
        if replaces:
            remove(root, [target])
            target.parent.mkdir(parents=True, exist_ok=True)
        scratch.rename(target)
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        merged.conflicts.append(f"{folder}: {target} could not be written: {error.strerror or error}")
        return
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    merged.copied.append(below)


def _changed(before: RunRecord, now: RunRecord) -> str:
    """What differs between the settings of a task in two records, with the values of the first."""
    old, new = (msgspec.to_builtins(each.task) for each in (before, now))
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return ", ".join(f"{key} {old.get(key)!r} (not {new.get(key)!r})" for key in keys)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _readable(root: Path, left_out: Callable[[str], None] = lambda text: None) -> Iterator[tuple[Path, RunRecord]]:
    for folder in list(records.folders(root)):
        try:
            yield folder, records.read_placed(folder)
        except NotARun as error:
            left_out(str(error))
