"""A trained grid that the tests of the commands share."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import EXAMPLE, TINY, write_suite

from flowbench import cli


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and "grid" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Two tasks, TD3 and an algorithm from a file, two seeds, trained: the arguments and the results folder."""
    folder = tmp_path_factory.mktemp("grid")
    results = folder / "results"
    suite = write_suite(folder)
    arguments = ["run", "--suite", suite, "--algo", f"td3[{TINY}],{EXAMPLE}[{TINY}]", "--seeds", "2", "--jobs", "2",
                 "--device", "cpu", "--results", str(results)]  # fmt: skip
    assert cli._status(arguments) == 0
    return arguments, results


@pytest.fixture
def no_workers(script):
    """No test that asks for this may start a worker."""
    yield
    assert script.started == []
