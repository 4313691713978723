"""Grids that the tests disturb, and their rows if nothing disturbs them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import write_suite
from harm import APART, Grid, Zygote


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("faults")


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    started = Zygote()
    yield started
    started.close()


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A suite whose runs have two episodes and three evaluations."""
    return write_suite(
        tmp_path_factory.mktemp("suite"), source="gymnasium", tasks=["Pendulum-v1"], steps=450,
        score={"low": -1500, "high": 0}, overrides={"td3": {"random_steps": 100}},
    )  # fmt: skip


@pytest.fixture
def grid(zygote: Zygote, suite: str, tmp_path: Path) -> Grid:
    return Grid(zygote, tmp_path / "results", suite)


@pytest.fixture(scope="session")
def undisturbed(zygote: Zygote, suite: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The rows of a grid that was not disturbed."""
    whole = Grid(zygote, tmp_path_factory.mktemp("whole") / "results", suite)
    assert whole.run() == 0, whole.printed
    return whole.tables()


@pytest.fixture
def apart(zygote: Zygote, suite: str, tmp_path: Path) -> Grid:
    return Grid(zygote, tmp_path / "results", suite, *APART)


@pytest.fixture(scope="session")
def undisturbed_apart(zygote: Zygote, suite: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The rows of two runs, each trained alone, that were not disturbed."""
    whole = Grid(zygote, tmp_path_factory.mktemp("apart") / "results", suite, *APART)
    assert whole.run() == 0, whole.printed
    return whole.tables()
