"""`report`, `compare` and the other readers name algorithms as `run` does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes import EXAMPLE, put_run, write_suite

from flowbench.plan.expand import expand

TD3 = {"tau": 0.05, "random_steps": 20, "hidden": 32}
ALGOS = ("td3", "td3[lr=0.01]", "td3[lr=0.01,tau=0.5]", "sac", EXAMPLE)
LR, BOTH = "td3[lr=0.01]", "td3[lr=0.01,tau=0.5]"  # labels


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs in a suite that sets hyperparameters of TD3, and published curves."""
    folder = tmp_path_factory.mktemp("names")
    suite = write_suite(folder, overrides={"td3": TD3, "sac": {"random_steps": 20}}, tasks=["cartpole-balance"])
    for place, cell in enumerate(expand(suite, [*ALGOS[:-1], f"{EXAMPLE}[random_steps=20]"], "3")):
        (put_run(folder / "results", cell) / "evals.csv").write_text(f"step,mean\n150,1\n300,{10 * place}\n")
    (folder / "curves.csv").write_text("algo,task,seed,simulator_step,return\nppo,cartpole-balance,0,300,30.5\n")
    from flowbench import cli

    arguments = ["import", "csv", str(folder / "curves.csv"), "--suite", suite, "--results", str(folder / "results")]
    assert cli._status(arguments) == 0
    return folder / "results"


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("td3", {"td3", LR, BOTH}),  # as before: every variant
        ("td3[]", {"td3"}),
        ("td3[tau=0.05]", {"td3"}),  # the suite sets it already
        ("td3[tau=5e-2,hidden=32]", {"td3"}),
        ("td3[lr=1e-2]", {LR}),
        ("td3[lr=0.01,tau=0.05]", {LR}),
        ("td3[tau=0.5,lr=0.01]", {BOTH}),  # in any order
        ("td3[],sac", {"td3", "sac"}),
        (BOTH, {BOTH}),
        (EXAMPLE, {"ddpg[random_steps=20]"}),
        (f"{EXAMPLE}[random_steps=20]", {"ddpg[random_steps=20]"}),
        ("published-ppo,sac", {"ppo (published)", "sac"}),
        ("ppo (published),sac", {"ppo (published)", "sac"}),
    ],
)
def test_report_accepts_what_run_does(results: Path, flowbench, text: str, chosen: set[str]) -> None:
    status, out, err = flowbench("report", "--results", results, "--algo", text, "--reps", 50, "--format", "json")
    assert (status, err) == (0, "")
    assert set(json.loads(out)["suites"][0]["algos"]) == chosen


@pytest.mark.parametrize(
    "text", ["td3[tau=0.5]", "td3[tau=0.06]", "td3[tau=fast]", "td3[no=1]", "td3[lr]", "published-x"]
)
def test_name_that_no_run_has_is_a_mistake(results: Path, flowbench, text: str) -> None:
    for arguments in (("report", "--algo", text), ("compare", text, "sac")):
        status, _, err = flowbench(*arguments, "--results", results)
        assert status == 2
        assert f"unknown algorithm in these results '{text}'" in err
        assert "td3" in err


@pytest.mark.parametrize(
    ("algo", "over", "pair"),
    [
        ("td3[tau=0.05]", "sac", ("td3", "sac")),
        ("td3", "sac", ("td3", "sac")),  # of several variants, the one of this label
        ("td3[]", "td3[lr=1e-2]", ("td3", LR)),
        ("td3[tau=0.5,lr=0.01]", EXAMPLE, (BOTH, "ddpg[random_steps=20]")),
        ("sac", "published-ppo", ("sac", "ppo (published)")),
        ("sac", "ddpg", ("sac", "ddpg[random_steps=20]")),
    ],
)
def test_compare_accepts_what_run_does(results: Path, flowbench, algo: str, over: str, pair: tuple[str, str]) -> None:
    status, out, err = flowbench("compare", algo, over, "--results", results, "--reps", 50, "--format", "json")
    assert (status, err) == (0, "")
    suite = json.loads(out)["suites"][0]
    assert (suite["algo"], suite["over"]) == pair


def test_compare_of_one_variant_under_two_names(results: Path, flowbench) -> None:
    status, _, err = flowbench("compare", "td3", "td3[tau=0.05]", "--results", results)
    assert status == 2
    assert "cannot be compared with itself" in err


def test_variants_of_one_name_are_told_apart_by_their_id(results: Path, tmp_path: Path, flowbench) -> None:
    suite = write_suite(tmp_path, overrides={"td3": TD3}, tasks=["cartpole-balance"])
    (tmp_path / "other").mkdir()
    other = write_suite(tmp_path / "other", overrides={"td3": {**TD3, "tau": 0.5}}, tasks=["cartpole-balance"])
    ids = []
    for path in (suite, other):
        for cell in expand(path, ["td3"], "3"):
            (put_run(tmp_path / "results", cell) / "evals.csv").write_text(f"step,mean\n300,{cell.seed}\n")
        ids.append(cell.variant.config_id)
    chosen = ["report", "--results", tmp_path / "results", "--reps", 50, "--format", "json", "--algo"]
    status, out, _ = flowbench(*chosen, f"td3#{ids[0]}")
    assert (status, json.loads(out)["suites"][0]["algos"]) == (0, ["td3"])
    status, out, _ = flowbench(
        "compare", f"td3#{ids[0]}", "td3[tau=0.5]", "--results", tmp_path / "results", *chosen[3:5]
    )
    assert status == 0
    status, _, err = flowbench("compare", "td3", "td3", "--results", tmp_path / "results")
    assert f"'td3' is ambiguous: choose one of {', '.join(f'td3#{each}' for each in sorted(ids))}" in err
