"""Experiments of papers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flowbench import cli, papers
from flowbench.errors import UsageError
from flowbench.papers import grids, timing
from flowbench.papers.experiment import Experiment
from flowbench.papers.flowrl import bandit


@pytest.mark.parametrize("name", papers.names())
def test_every_experiment_of_every_paper_says_what_it_costs_at_every_scale(name: str, capsys) -> None:
    experiment = papers.find(name)
    assert f"{experiment.paper}/{experiment.name}" == name
    for scale in papers.SCALES:
        papers.run(experiment, scale, Path("nowhere"), Path("nowhere"), device="cpu", jobs=1, dry_run=True)
        told = capsys.readouterr().out
        assert experiment.claim in told
        assert f"scale {scale}: " in told
    assert not Path("nowhere").exists()


def test_an_experiment_is_found_without_its_paper() -> None:
    assert papers.find("constraint") == papers.find("flowrl/constraint")


@pytest.mark.parametrize(("name", "meant"), [("constrant", "constraint"), ("flowrl/bandt", "flowrl/bandit")])
def test_an_unknown_experiment_is_refused(name: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{meant}'"):
        papers.find(name)


def test_an_unknown_scale_is_refused(capsys) -> None:
    assert cli._status(["paper", "bandit", "--scale", "ful"]) == 2
    assert "did you mean 'full'" in capsys.readouterr().err


GOOD = "title: a\nfigure: b\nclaim: c\ngrid: {algo: [sac]}\nscales: {smoke: {}, cpu: {}, full: {}}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "must hold keys"),
        (GOOD + "titel: x\n", "did you mean 'title'"),
        (GOOD + "module: x\n", "has grid and module"),
        (GOOD.replace("grid: {algo: [sac]}\n", ""), "has none"),
        (GOOD.replace("claim: c", "claim: 3"), "must be texts"),
        (GOOD.replace("cpu: {}, ", ""), "scales must hold smoke, cpu, full"),
        (GOOD.replace("cpu: {}", "cpu: 3"), "scales must hold smoke, cpu, full"),
        (":\n  - :", "not YAML"),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "it.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=said) as error:
        Experiment.read(path)
    assert str(path) in str(error.value)


def test_a_scale_stands_above_what_all_have(tmp_path: Path) -> None:
    path = tmp_path / "it.yaml"
    path.write_text(GOOD.replace("cpu: {}", "cpu: {algo: [td3], seeds: 2}"), encoding="utf-8")
    experiment = Experiment.read(path)
    assert experiment.scale("smoke") == {"algo": ["sac"]}
    assert experiment.scale("cpu") == {"algo": ["td3"], "seeds": 2}


def test_a_grid_is_trained_reported_and_drawn(tmp_path: Path, capfd) -> None:
    pieces = {"suite": "quick", "task": ["cartpole-balance"], "seeds": 1, "steps": 60}
    scale = {**pieces, "algo": ["td3"], "set": ["hidden=8", "random_steps=40", "batch_size=4"], "draw": "curves"}
    assert grids.cost(scale) == "1 runs, 60 environment steps together"
    assert grids.run(scale, tmp_path / "results", tmp_path / "figures", device="cpu", jobs=1) == 0
    assert "cartpole-balance" in capfd.readouterr().out
    assert list((tmp_path / "figures").glob("*.svg"))


def test_a_timing_counts_each_part_where_it_happens() -> None:
    # 10 steps of which 8 learned: 0.1 s of acting a learned step, 0.05 of the environment a step, 2 s an evaluation
    wall = {"act": 0.8, "environment": 0.5, "update": 1.6, "replay": 0.0, "evaluation": 2.0}
    assert timing.seconds_for(1000, wall, 10, 8, 100) == pytest.approx(1000 * (0.1 + 0.05 + 0.2) + 10 * 2.0)


def test_a_timing_is_measured_and_drawn(tmp_path: Path) -> None:
    told: list[float] = []
    scale = {"task": "cartpole-balance", "algo": ["td3", "sac"], "extrapolate": 1000, "steps": 20, "set": ["hidden=8"]}
    outcome = timing.run(scale, tmp_path, "cpu", told.append)
    assert [row[0].partition("[")[0] for row in outcome.rows] == ["td3", "sac"]
    assert all(float(row[1]) >= 0 and float(row[2]) > 0 for row in outcome.rows)
    assert [path.suffix for path in outcome.figures] == [".svg", ".pdf", ".png"]
    assert all(path.stat().st_size > 0 for path in outcome.figures)
    assert told == [0.5, 1.0]


# The bandit


def test_the_reward_is_that_of_the_highest_hill() -> None:
    assert bandit.reward(bandit.CENTRES).tolist() == pytest.approx(bandit.REWARDS.tolist(), abs=0.02)
    assert bandit.reward(torch.tensor([[9.0, 9.0]])).item() == pytest.approx(0.0, abs=1e-6)


def test_the_spread_by_hand() -> None:
    assert bandit.spread(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", [0, 1])
def test_guided_samples_are_better_and_closer_together_than_plain_ones(seed: int) -> None:
    stored = bandit.replay(torch.Generator().manual_seed(seed))
    guided = bandit.train(stored, True, 150, seed, lambda _: None)
    plain = bandit.train(stored, False, 150, seed, lambda _: None)
    behind = bandit.reward(stored).mean().item()
    assert guided.reward > 0.75 > behind + 0.2
    assert plain.reward < behind + 0.05
    assert guided.spread < 0.5 * plain.spread
