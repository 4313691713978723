"""What `flowbench run --dry-run` tries: every task is reset and stepped once, every variant updates and acts."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from contextlib import closing, redirect_stdout
from types import ModuleType

import numpy as np
import torch

import suites
from flowbench.common.errors import UsageError, describe, printable
from flowbench.common.text_table import plural
from flowbench.learners import seed_learners
from flowbench.learners.placement import Placement
from flowbench.plan.cells import Cell
from flowbench.train.vecenv import EnvironmentFault, advance, reset

SIZES = 17, 6  # of observations and actions, if no task can be made
ON_CPU = Placement(torch.device("cpu"))
FAULTS = (Exception, SystemExit)  # third-party code may raise anything


def rehearse(cells: Sequence[Cell]) -> str:
    """A line that says what works. Tasks whose libraries are not installed are left out: the preview names them.

    Raises UsageError with the file, the line and the reason of what does not work; if there are several, it prints the
    others.
    """
    tasks = {cell.task.name: cell.task for cell in cells}
    variants = {cell.variant.config_id: cell.variant for cell in cells}
    installed = {source: _is_installed(source) for source in {task.source for task in tasks.values()}}
    sizes: list[tuple[int, int]] = []
    problems = []
    with redirect_stdout(sys.stderr):  # some simulators print
        for task in tasks.values():
            if installed[task.source]:
                try:
                    sizes.append(_try_task(task))
                except FAULTS as error:
                    problems.append(f"task {task.name!r}: {_line_of(error)}{describe(error)}")
        for variant in variants.values():
            algorithm = variant.entry.load()
            try:
                seed_learners.build(algorithm, *(sizes or [SIZES])[0], variant.config, [0], ON_CPU)
            except FAULTS as error:
                own = _line_of(error, sys.modules[algorithm.__module__])
                problems.append(f"algorithm {variant.label!r}: {own}{describe(error)}")
    for problem in problems[:-1]:
        print(printable(f"flowbench: {problem}"), file=sys.stderr)
    if problems:
        raise UsageError(problems[-1])
    return f"tried: {plural(len(variants), 'variant')} and {plural(len(sizes), 'task')} work"


def _is_installed(source: str) -> bool:
    try:
        suites.require(source)
    except suites.SuiteError:
        return False
    return True


def _try_task(task: suites.Task) -> tuple[int, int]:
    """Begin an episode and take a step, with the checks of a training. Returns (obs_dim, act_dim)."""
    with closing(suites.make(task)) as env:
        obs, action = reset(env, 0), np.zeros_like(env.action_space.sample())
        advance(env, action)
        return len(obs), len(action)


def _line_of(error: BaseException, module: ModuleType | None = None) -> str:
    """Where an error was raised, with ": " behind it: the last line of the module, else of any file."""
    frames = traceback.extract_tb(error.__traceback__)
    if module:
        own = [frame for frame in frames if frame.filename == module.__file__]
        return f"{module.__file__}:{own[-1].lineno} ({own[-1].line}): " if own else f"{module.__file__}: "
    if isinstance(error, (EnvironmentFault, suites.SuiteError)):  # the message says it all
        return ""
    return f"{frames[-1].filename}:{frames[-1].lineno} ({frames[-1].line}): "
