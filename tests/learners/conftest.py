from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_cuda import FakeCuda, install


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """A CUDA device that is pretended on the CPU."""
    with install(monkeypatch) as device:
        yield device
