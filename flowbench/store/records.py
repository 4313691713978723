"""The record of a run: `<suite>/<task>/<algo>/<variant>/seed-<k>/run.json`, read and written here alone.

The file is replaced in one step, so that it is complete whenever the machine stops.
"""

from __future__ import annotations

import dataclasses
import glob
import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

import suites
from flowbench.common.errors import UsageError
from flowbench.plan import overrides
from flowbench.plan.cells import Cell, task_folder
from flowbench.store import atomic, csv_rows, lock

SCHEMA = 1
Status = Literal["done", "running", "stopped", "failed", "queued"]
STATUSES: tuple[Status, ...] = ("done", "running", "stopped", "failed", "queued")
Whole = Annotated[int, Meta(ge=-csv_rows.LARGEST, le=csv_rows.LARGEST)]
Versions = dict[str, str | None]  # by library, with flowbench's own version and commit
# Keys that are null on disk, instead of absent, as soon as one of these other keys is there.
NULL_WITH = {
    "timeout": ("device",),
    "auto": ("device",),
    "ended": ("started",),
    "error": ("started", "ended"),
    "success_from": ("learner",),
}


class NotARun(ValueError):
    """A folder that is laid out as a run's but cannot be read as one; the message says why."""


class SuiteInfo(Struct, frozen=True):
    """The suite of a run, as it was when the run was planned."""

    name: str
    title: str
    comparable: bool
    note: str
    tasks: Whole
    steps: Whole

    @staticmethod
    def of(suite: suites.Suite) -> SuiteInfo:
        return SuiteInfo(suite.name, suite.title, suite.comparable, suite.note, len(suite.tasks), suite.steps)


class TaskInfo(Struct, frozen=True, omit_defaults=True):
    """The task of a run. `env_args` are on disk only if there are any."""

    name: str
    source: str
    action_repeat: Whole
    low: float
    high: float
    env_args: dict[str, Any] = {}

    @staticmethod
    def of(task: suites.Task) -> TaskInfo:
        bounds = task.score.low, task.score.high
        return TaskInfo(task.name, task.source, task.action_repeat, *bounds, dict(task.env_args))

    def task(self) -> suites.Task:
        """The task itself. Raises SuiteError for values that no task can have."""
        score = suites.Score(self.low, self.high)
        return suites.Task(self.name, self.source, self.action_repeat, score, self.env_args)


class AlgoInfo(Struct, frozen=True):
    """The algorithm of a run; `sha256` is that of its file, for an algorithm given by file.

    `overrides` are the hyperparameters that the suite sets to other values than the defaults of the algorithm. `code`
    is a digest of the code that its behaviour depends on.
    """

    name: str
    label: str
    target: str
    sha256: str | None = None
    overrides: dict[str, Any] | None = None  # None: not recorded
    code: str | None = None  # None: not recorded

    @staticmethod
    def of(cell: Cell) -> AlgoInfo:
        variant = cell.variant
        defaults = {field.name: field.default for field in dataclasses.fields(variant.config)}
        config = dataclasses.asdict(variant.config)
        own = {
            key: config[key]
            for key, value in cell.suite.overrides.get(variant.entry.name, {}).items()
            if config[key] != defaults[key] and overrides.equals(config[key], str(value))
        }
        return AlgoInfo(variant.entry.name, variant.label, variant.entry.target, variant.source, own, variant.code)


class ProtocolInfo(Struct, frozen=True):
    """How long the run trains and how it is evaluated, in environment steps after action repeat."""

    steps: Whole
    every: Whole
    episodes: Whole


class LearnerInfo(Struct, frozen=True):
    """How the seeds were trained: "separate" or "stacked", where replay was held, and the worker processes."""

    kind: str
    replay: str
    environment_processes: int
    evaluation_processes: int


class MachineInfo(Struct, frozen=True):
    """The hardware that trained the run."""

    cpu: str
    cores: int
    threads: int
    gpu: str | None = None


class Sizes(Struct, frozen=True):
    """Dimensions of observations and actions."""

    obs: int
    act: int


class Memory(Struct, frozen=True):
    """The most memory that the run used."""

    host_bytes: int | None = None
    gpu_bytes: int | None = None


class Published(Struct, frozen=True):
    """Where an imported curve comes from."""

    format: str = ""
    file: str = ""
    sha256: str = ""
    algo: str = ""
    task: str = ""
    step_unit: str = ""
    simulator_steps_per_step: int = 1


class Segment(Struct, frozen=True, kw_only=True):
    """A training segment, from a start or resume to the next: what its numbers depend on besides the config."""

    device: str | None = None
    precision: str | None = None
    threads: int | None = None
    versions: Versions | None = None
    code: str | None = None  # of the algorithm


class Resumed(Segment, frozen=True, kw_only=True):
    """A segment that began from the checkpoint of `step`."""

    at: str
    step: int


class RunRecord(Struct, kw_only=True):
    """A run.json. Fields are None until the run gets that far."""

    schema: int = SCHEMA
    status: Status
    suite: SuiteInfo
    task: TaskInfo
    algo: AlgoInfo
    config_id: str
    config: dict[str, Any]
    protocol: ProtocolInfo
    seed: Whole
    group: list[int] | None = None  # the seeds that train together, in their order
    published: Published | None = None  # the run was imported

    # What the scheduler asks of the worker
    device: str | None = None
    threads: int | None = None
    precision: str | None = None
    per_gpu: int | None = None
    checkpoint_every: int | None = None
    keep_checkpoints: bool | None = None
    keep_weights: bool | None = None
    log: list[str] | None = None
    timeout: float | None = None
    auto: Whole | None = None  # seeds were added until a comparison was decided, or there were this many
    attempts: int | None = None

    # What the worker reports
    started: str | None = None
    ended: str | None = None
    error: str | None = None
    pid: int | None = None
    startup: float | None = None
    success_from: float | None = None
    learner: LearnerInfo | None = None
    note: str | None = None  # why seeds are not stacked, or CUDA graphs not used, although they should be
    parameters: int | None = None
    sizes: Sizes | None = None
    versions: Versions | None = None
    machine: MachineInfo | None = None
    began: Segment | None = None
    resumed: list[Resumed] | None = None
    wall: dict[str, float] | None = None  # seconds by what they were spent on
    seconds: float | None = None
    memory: Memory | None = None

    @staticmethod
    def of(cell: Cell, group: Sequence[int]) -> RunRecord:
        """The record of a cell that is queued, with the seeds that train together."""
        variant, protocol = cell.variant, cell.variant.protocol
        return RunRecord(
            status="queued",
            suite=SuiteInfo.of(cell.suite),
            task=TaskInfo.of(cell.task),
            algo=AlgoInfo.of(cell),
            config_id=variant.config_id,
            config=dataclasses.asdict(variant.config),
            protocol=ProtocolInfo(protocol.steps, protocol.every, protocol.episodes),
            seed=cell.seed,
            group=list(group),
        )

    @staticmethod
    def parse(read: Any) -> RunRecord:
        """The record that parsed JSON holds. Raises ValueError, naming the key that is wrong."""
        if not isinstance(read, dict) or "schema" not in read:
            raise ValueError("not a run of flowbench")
        if read["schema"] != SCHEMA:
            raise ValueError(f"schema {read['schema']!r}; this flowbench reads schema {SCHEMA}")
        record = msgspec.convert(read, RunRecord)
        record.task.task()
        return record

    def to_builtins(self) -> dict[str, Any]:
        """The record as it is on disk."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        segments = [each for each in (values["began"], *(values["resumed"] or [])) if each]
        for part, key in [(values["algo"], "overrides"), *((each, "code") for each in (values["algo"], *segments))]:
            if part[key] is None:  # a record of an earlier version stays as it is
                del part[key]
        return {
            key: value
            for key, value in values.items()
            if value is not None or any(values[other] is not None for other in NULL_WITH.get(key, ()))
        }

    def is_of(self, cell: Cell) -> bool:
        """Whether this is the record of a cell."""
        recorded = (self.suite.name, self.task.name, self.config_id, self.seed)
        return recorded == (cell.suite.name, cell.task.name, cell.variant.config_id, cell.seed)

    def segment(self) -> Segment:
        """The training segment that is under way, or the last one."""
        return Segment(
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            versions=self.versions,
            code=self.algo.code,
        )


def now() -> str:
    """The time, in UTC, to the second, as ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def write_run(folder: Path, record: RunRecord) -> None:
    """Replace the folder's run.json in one step, so that it is complete whenever the machine stops."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic.replace(folder / "run.json", _text(record))


def begin_run(folder: Path, record: RunRecord) -> None:
    """Write the folder's run.json unless there is one, also if another process writes it at the same time."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic.create(folder / "run.json", _text(record))


def _text(record: RunRecord) -> bytes:
    return (json.dumps(record.to_builtins(), indent=2, allow_nan=False) + "\n").encode()


def read_run(folder: Path) -> RunRecord:
    """The folder's run.json. Raises NotARun if it is missing, unreadable or of another schema."""
    path = folder / "run.json"
    try:
        text = path.read_text(encoding="utf-8")
        read = json.loads(text)
        if "\\ud" in text.lower():  # perhaps a lone surrogate, as in an error that names a file in another encoding
            read = json.loads(json.dumps(read, ensure_ascii=False).encode(errors="replace"))
        return RunRecord.parse(read)
    except (OSError, ValueError, RecursionError) as error:
        raise NotARun(f"{path}: {error}") from error


def read_if_valid(folder: Path) -> RunRecord | None:
    """The folder's run.json; None if there is none that can be read."""
    try:
        return read_run(folder)
    except NotARun:
        return None


def is_done(folder: Path) -> bool:
    """Whether the folder holds a finished run."""
    record = read_if_valid(folder)
    return record is not None and record.status == "done"


def status(folder: Path) -> str:
    """One of `STATUSES`, or "missing". "stopped" is a run that was started and whose process ended without a status."""
    if not (folder / "run.json").exists():
        return "missing"
    return status_now(folder, read_run(folder))


def status_now(folder: Path, record: RunRecord) -> Status:
    """What `status` returns for a folder whose record was read before."""
    if record.status not in ("running", "queued"):
        return record.status
    if lock.is_held(folder):
        return "running"
    return "queued" if record.status == "queued" else "stopped"


def check_same_task(root: Path, cell: Cell) -> None:
    """Raise UsageError if this suite's task was run with another source, action repeat, arguments or score bounds."""
    wanted = TaskInfo.of(cell.task)
    for folder in sorted((root / cell.path).parents[2].glob("*/*/seed-*")):
        record = read_if_valid(folder)
        if record is None:
            continue
        names = {"source": "source", "action_repeat": "action_repeat", "low": "score low", "high": "score high"}
        for key, name in {**names, "env_args": "env_args"}.items():
            before, now = getattr(record.task, key), getattr(wanted, key)
            if before != now:
                raise UsageError(
                    f"suite {cell.suite.name!r}, task {cell.task.name!r}: {name} is {now!r} now, and was {before!r} "
                    f"in {folder}; rename the changed suite or use another --results"
                )


def folders(root: Path) -> Iterator[Path]:
    """Every folder below `root` that is laid out as a run's; other processes may add and remove folders meanwhile."""
    # Path.glob raises an error if a folder is removed during the search; glob.glob does not.
    for path in sorted(root / found for found in glob.glob("*/*/*/*/seed-*/run.json", root_dir=root)):
        if re.fullmatch(r"seed-\d+", path.parent.name):
            yield path.parent


def read_placed(folder: Path) -> RunRecord:
    """`read_run` of a folder below a results folder. Raises NotARun also if the record belongs to another folder."""
    record = read_run(folder)
    suite, task, algo, variant, seed = folder.parts[-5:]
    own = (record.suite.name, task_folder(record.task.name), record.algo.name, f"seed-{record.seed}")
    # The record in a copied folder must not count as a second run.
    if (suite, task, algo, seed) != own or not variant.endswith(f"-{record.config_id}"):
        where = "/".join(folder.parts[-5:])
        raise NotARun(f"{folder / 'run.json'}: the record of {'/'.join(own)} ({record.config_id}) lies in {where}")
    return record
