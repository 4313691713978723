"""Training by CUDA graphs on a pretended GPU: the same rows as without graphs, and what graphs must not do."""

from __future__ import annotations

import functools
from functools import partial
from typing import Any

import pytest
from fake_cuda import DEVICE, FakeCuda
from fakes import Toy, ToyConfig, Walk

import algos
from flowbench.learners import cuda_graphs
from flowbench.learners.placement import Placement
from flowbench.train.build import build_trainer
from flowbench.train.events import Row, Save

SMALL = {"qvpo": {"denoising_steps": 2, "train_samples": 2, "eval_samples": 2}}
CLOCK = ("seconds", "steps_per_second")


def options_of(name: str, stack: bool) -> dict[str, Any]:
    cls = algos.find(name).load()
    config = cls.Config(hidden=8, batch_size=4, random_steps=4, **SMALL.get(name, {}))
    return {"algorithm": cls, "config": config, "stack": stack}


def trainer(algorithm=Toy, config=None, seeds=(0, 1), stack=False, precision="float32"):
    return build_trainer(
        partial(Walk, 7), algorithm, config or ToyConfig(), seeds, steps=24, evaluate_every=24, evaluation_episodes=1,
        save_every=4, placement=Placement(DEVICE, stack=stack, precision=precision),
    )  # fmt: skip


def rows(happened) -> list[tuple[str, int, dict[str, float]]]:
    found = [each for each in happened if isinstance(each, Row)]
    found.sort(key=lambda row: (row.table, row.seed, row.values["step"]))
    return [(r.table, r.seed, {k: v for k, v in r.values.items() if k not in CLOCK}) for r in found]


@functools.cache
def eager(name: str, stack: bool):
    """The rows of training an algorithm without graphs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_graphs, "WARM_UP", 10**9)
        return rows(trainer(**options_of(name, stack)).run())


@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("name", algos.names())
def test_rows_equal_those_of_eager_training(name: str, stack: bool, cuda: FakeCuda) -> None:
    expected = eager(name, stack)
    assert not cuda.captured
    by_graphs = trainer(**options_of(name, stack))
    assert by_graphs.kind == ("stacked" if stack else "separate")
    assert rows(by_graphs.run()) == expected
    assert cuda.counts["replays"] > 20
    assert cuda.stream is cuda.main


def interrupted(at: int, **options):
    """The rows of a run that stops at the save of step `at` and is resumed by another trainer."""
    first = trainer(**options)
    before, chunks, start = [], [[] for _ in first.seeds], 0
    for happened in first.run():
        before.append(happened)
        if isinstance(happened, Save):
            for index, chunk in enumerate(chunks):
                chunk.append(first.transitions(index, start))
            start = int(chunks[0][-1]["numbers"][1])
            if happened.step == at:
                states = [first.state(index) for index in range(len(first.seeds))]
                break
    second = trainer(**options)
    assert second.restore(states, chunks) == []
    return rows(before + list(second.run()))


@pytest.mark.parametrize("at", [8, 16])  # in the middle of the warm-up, and when graphs are replayed
@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.parametrize("name", algos.names())
def test_a_resumed_run_gives_the_rows_of_eager_training(name: str, stack: bool, at: int, cuda: FakeCuda) -> None:
    assert interrupted(at, **options_of(name, stack)) == eager(name, stack)
    assert cuda.counts["replays"] > 5
