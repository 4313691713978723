from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_cuda import FakeCuda, install

from flowbench.train import seed_learners


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """A CUDA device that is pretended on the CPU."""
    with install(monkeypatch) as device:
        yield device


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No self-check before training, which takes longer than the training in most tests."""
    monkeypatch.setattr(seed_learners, "check", lambda make: "")
