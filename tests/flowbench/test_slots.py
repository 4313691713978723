"""Shares of the machine."""

from __future__ import annotations

import pytest

from flowbench import machine, slots
from flowbench.engines.local import Local
from flowbench.slots import Slots


@pytest.mark.parametrize(
    ("device", "jobs", "precision", "gpus", "expected"),
    [
        ("auto", None, None, 0, Slots(8, "auto", 1, 0, "float32")),
        ("auto", None, None, 2, Slots(2, "auto", 4, 2, "tf32")),
        ("cuda", 4, "bfloat16", 2, Slots(4, "cuda", 2, 2, "bfloat16")),
        ("cpu", None, None, 2, Slots(8, "cpu", 1, 0, "float32")),
        ("cpu", 16, None, 0, Slots(16, "cpu", 1, 0, "float32")),
        ("cpu", 1, "bfloat16", 0, Slots(1, "cpu", 8, 0, "bfloat16")),
    ],
)
def test_slots(monkeypatch: pytest.MonkeyPatch, device, jobs, precision, gpus, expected) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 8)
    monkeypatch.setattr(machine, "gpu_count", lambda: gpus)
    assert slots.share(device, jobs, precision) == expected


@pytest.mark.parametrize(("stack", "gpus", "expected"), [(None, 0, 1), (None, 1, 8), (3, 0, 3), (1, 2, 1)])
def test_how_many_seeds_are_stacked(stack: int | None, gpus: int, expected: int) -> None:
    assert slots.stack_size(stack, gpus) == expected


def test_a_worker_sees_its_graphics_card_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Local(Slots(2, "cuda", 3, 2))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert engine._environment(1)["CUDA_VISIBLE_DEVICES"] == "1"
    assert engine._environment(1)["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert engine._environment(1)["CUDA_VISIBLE_DEVICES"] == "7"
    assert Local(Slots(jobs=2, device="cpu", threads=1, gpus=0))._environment(None)["CUDA_VISIBLE_DEVICES"] == ""
