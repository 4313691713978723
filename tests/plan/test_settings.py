"""The resolved hyperparameters of variants, as they are shown before a run."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fakes import EXAMPLE

import suites
from flowbench.plan import expand, settings


def resolved(algo: str, *given: str) -> dict[str, str]:
    suite = suites.load("quick", check_tasks=False)
    (variant,) = expand.variants(suite, [algo], given, expand.protocol(suite))
    return {each.field.name: str(each) for each in settings.resolved(suite, variant)}


def test_each_value_says_who_set_it() -> None:
    found = resolved("flowrl[constraint=false]", "gamma=0.9", "hidden=32", "random_steps=200")
    assert found["tau"] == "0.02 * suite"
    assert found["gamma"] == "0.9 * given"
    assert found["constraint"] == "False * given"
    assert found["hidden"] == "32 * given"  # over the suite's 64
    assert found["random_steps"] == "200 * suite"  # the same value again
    assert found["flow_steps"] == "1"
    assert resolved("flowrl[tau=0.95]")["tau"] == "0.95"  # back to the default
    assert not any("*" in value for value in resolved(EXAMPLE).values())


def test_a_dry_run_has_a_table_for_each_algorithm(flowbench: Any, tmp_path: Any) -> None:
    status, out, _ = flowbench("run", "--suite", "quick", "--algo", "td3,flowrl,flowrl[tau=0.1]", "--seeds", 1,
                               "--dry-run", "--results", tmp_path, "--device", "cpu")  # fmt: skip
    assert status == 0
    tables = re.findall(r"^Hyperparameters of (\w+) .*\n((?:.+\n)+)", out, re.MULTILINE)
    assert [name for name, _ in tables] == ["td3", "flowrl"]
    assert re.search(r"^tau +0\.95 +0\.02 \* suite +0\.1 \* given", tables[1][1], re.MULTILINE)
    assert re.search(r"^policy_delay +2 +2$", tables[0][1], re.MULTILINE)


def test_listing_hyperparameters_for_a_suite(flowbench: Any) -> None:
    status, out, _ = flowbench("list", "params", "flowrl[flow_steps=2]", "--suite", "quick", "--set", "lr=1e-4")
    assert status == 0
    assert re.search(r"^\s*hyperparameter +type +default +in quick +description", out, re.MULTILINE)
    for line in (r"tau +float +0\.95 +0\.02 \* suite ", r"flow_steps +int +1 +2 \* given ", r"lr .* 0\.0001 \* given "):
        assert re.search(rf"^\s*{line}", out, re.MULTILINE), line
    assert "differs from the default" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "lr=1"], "name its suite with --suite"),
        (["--suite", "quik"], "did you mean 'quick'"),
        (["--suite", "quick", "--set", "hiden=1"], "hidden"),
    ],
)
def test_a_mistake_in_listing_hyperparameters(options: list[str], words: str, flowbench: Any) -> None:
    status, out, err = flowbench("list", "params", "flowrl", *options)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert words in err
