"""Python scripts in the place of worker processes: they need no torch, and do what a test says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes import make_cell

from flowbench.plan.options import RunOptions
from flowbench.schedule.executors import local
from flowbench.schedule.groups import Group
from flowbench.schedule.resources import Slots
from flowbench.schedule.runner import Outcome, Runner

HEAD = """
import json, os, signal, sys, time

def record(folder=sys.argv[1], **values):
    with open(folder + '/run.json') as file:
        run = json.load(file)
    with open(folder + '/run.json', 'w') as file:
        json.dump({**run, **values}, file)

"""
FINISH = "\nfor folder in sys.argv[1:]:\n    record(folder, status='done')\n"


class Script:
    """Stands in for the worker: a piece of Python with the folders as its arguments, after which the runs are done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[list[str]] = []
        self.codes: dict[int, str] = {}  # by the first seed of the group
        self.usual = "pass"
        real = subprocess.Popen

        def popen(command, **options):
            if command[1:4] != ["-m", "flowbench.worker", "--locked"]:
                return real(command, **options)
            folders = command[4:]
            self.started.append(folders)
            seed = int(Path(folders[0]).name.removeprefix("seed-"))
            code = HEAD + self.codes.get(seed, self.usual) + FINISH
            return real([sys.executable, "-c", code, *folders], **options)

        monkeypatch.setattr(local.subprocess, "Popen", popen)


def groups(count: int) -> list[Group]:
    return [Group((make_cell(seed=seed),)) for seed in range(count)]


def run(
    root: Path, groups: list[Group], jobs: int = 1, on_event=lambda *_: None, executor=None, **options: object
) -> tuple[Runner, dict[int, Outcome]]:
    """Run groups with these options; the outcomes by seed."""
    runner = Runner(root, Slots(jobs, "cpu", 1), on_event, RunOptions(**options), executor)
    return runner, {outcome.cell.seed: outcome for outcome in runner.run(groups)}


def run_for_events(
    root: Path, groups: list[Group], **options: object
) -> tuple[list[dict[str, object]], dict[int, Outcome]]:
    """The events that the workers report, and the outcomes by seed."""
    events: list[dict[str, Any]] = []
    _, outcomes = run(root, groups, on_event=lambda group, event: events.append(event), **options)
    return events, outcomes
