"""Experiments of papers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from flowbench.common.errors import UsageError
from flowbench.experiments import experiment as experiments
from flowbench.experiments import grids, timing
from flowbench.experiments.experiment import Experiment
from flowbench.experiments.flowrl import bandit
from flowbench.experiments.run import run_experiment
from flowbench.interop import importing
from flowbench.plan.options import RunOptions
from flowbench.store import records
from flowbench.store.load import Exactly, load_selected
from flowbench.store.records import RunRecord


@pytest.mark.parametrize("name", experiments.names())
def test_every_experiment_prints_its_cost_at_every_scale(name: str, capsys) -> None:
    experiment = experiments.find(name)
    assert f"{experiment.paper}/{experiment.name}" == name
    for scale in experiments.SCALES:
        run_experiment(experiment, scale, Path("nowhere"), Path("nowhere"), device="cpu", jobs=None, dry_run=True)
        printed = capsys.readouterr().out
        assert experiment.claim in printed
        assert f"scale {scale}: " in printed
    assert not Path("nowhere").exists()


def test_an_experiment_is_found_without_its_paper() -> None:
    assert experiments.find("constraint") == experiments.find("flowrl/constraint")


GOOD = "title: a\nfigure: b\nclaim: c\ngrid: {algo: [sac]}\nscales: {smoke: {}, cpu: {}, full: {}}\n"


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        GOOD + "titel: x\n",
        GOOD + "module: x\n",
        GOOD.replace("grid: {algo: [sac]}\n", ""),
        GOOD.replace("cpu: {}, ", ""),
    ],
)
def test_invalid_file_is_rejected(tmp_path: Path, text: str) -> None:
    path = tmp_path / "it.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="one of grid, timing, module, and scales with smoke, cpu, full") as error:
        Experiment.read(path)
    assert str(path) in str(error.value)


def test_options_of_a_scale_override_common_ones(tmp_path: Path) -> None:
    path = tmp_path / "it.yaml"
    path.write_text(GOOD.replace("cpu: {}", "cpu: {algo: [td3], seeds: 2}"), encoding="utf-8")
    experiment = Experiment.read(path)
    assert experiment.scale("smoke") == {"algo": ["sac"]}
    assert experiment.scale("cpu") == {"algo": ["td3"], "seeds": 2}


@pytest.mark.slow
def test_a_grid_is_trained_reported_and_drawn(tmp_path: Path, capfd) -> None:
    pieces = {"suite": "quick", "task": ["cartpole-balance"], "seeds": 1, "steps": 60}
    scale = {**pieces, "algo": ["td3"], "set": ["hidden=8", "random_steps=40", "batch_size=4"], "draw": "curves"}
    assert grids.cost(scale) == "1 runs, 60 environment steps together"
    assert grids.run(scale, tmp_path / "results", tmp_path / "figures", RunOptions(device="cpu", jobs=1)) == 0
    assert "cartpole-balance" in capfd.readouterr().out
    assert [path.name for path in sorted((tmp_path / "figures").glob("*.svg"))] == ["quick-curves.svg"]


def test_report_of_a_grid_has_its_own_cells_and_named_published_curves(tmp_path: Path, capfd) -> None:
    """A longer run, another variant under the same name and another task are in the folder, too."""
    scale = {
        "suite": "quick", "task": ["cartpole-balance"], "seeds": 2, "steps": 600, "algo": ["td3"], "set": ["hidden=8"],
        "published": ["tdmpc2"],
    }  # fmt: skip
    others: list[dict] = [{"seeds": 3}, {"steps": 1200}, {"set": ["hidden=9"]}, {"task": ["walker-stand"]}]
    for other in ({}, *others):
        for cell in grids.cells({**scale, **other}):
            folder = tmp_path / cell.path
            records.write_run(folder, replace(RunRecord.of(cell, [cell.seed]), status="done"))
            (folder / "evals.csv").write_text(f"step,mean\n{cell.variant.protocol.steps},100\n")
    curves = tmp_path / "curves.csv"
    lines = [
        f"{algo},{task},0,4800,100\n" for algo in ("tdmpc2", "ppo") for task in ("cartpole-balance", "walker-stand")
    ]
    curves.write_text("algo,task,seed,step,return\n" + "".join(lines))
    importing.import_curves("csv", curves, tmp_path, suite="quick")
    found = load_selected(tmp_path, Exactly(grids.cells(scale), scale["published"]))
    assert set(found.runs["task"]) == {"cartpole-balance"}
    assert sorted(zip(found.runs["algo"], found.runs["seed"], found.runs["steps"], strict=True)) == [
        ("td3[hidden=8,steps=600]", 0, 600), ("td3[hidden=8,steps=600]", 1, 600), ("tdmpc2 (published)", 0, 600),
    ]  # fmt: skip
    assert set(found.evals["seed"]) == {0, 1}
    assert (
        grids.run({**scale, "draw": "aggregates"}, tmp_path, tmp_path / "figures", RunOptions(device="cpu", jobs=1))
        == 0
    )
    told = capfd.readouterr().out
    assert "tdmpc2" in told
    assert not {"ppo", "walker-stand", "hidden=9"} & set(told.replace(",", " ").split())
    assert [path.name for path in sorted((tmp_path / "figures").glob("*.svg"))] == ["quick-aggregates.svg"]


def test_a_figure_that_nobody_can_draw_is_refused_before_anything_runs(tmp_path: Path) -> None:
    scale = {"suite": "quick", "task": ["cartpole-balance"], "seeds": 1, "algo": ["td3"], "draw": "curvs"}
    with pytest.raises(UsageError, match="unknown figure 'curvs'; did you mean 'curves'"):
        grids.run(scale, tmp_path / "results", tmp_path, RunOptions(device="cpu", jobs=1))
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", ["bandit", "efficiency", "constraint"])
def test_unwritable_figures_folder_is_rejected_before_anything_runs(tmp_path: Path, flowbench, name: str) -> None:
    (tmp_path / "file").touch()
    where = ["--results", tmp_path / "results", "--figures", tmp_path / "file" / "below"]
    status, out, err = flowbench("paper", name, *where)
    assert (status, out) == (2, "")
    assert err.startswith(f"flowbench: --figures '{tmp_path / 'file' / 'below'}")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["constrant"], "did you mean 'constraint'?"),
        (["flowrl/bandt"], "did you mean 'flowrl/bandit'?"),
        (["bandit", "--scale", "ful"], "did you mean 'full'?"),
        (["bandit", "--device", "cdua"], "unknown device 'cdua'; did you mean 'cuda'?"),
        (["efficiency", "--device", "foo"], "unknown device 'foo' (choices: auto, cpu, cuda)"),
        (["bandit", "--device", "cuda"], "flowrl/bandit runs on the CPU only"),
        (["bandit", "--jobs", "3"], "--jobs 3 is only for grids of runs, and flowrl/bandit is not a grid"),
        (["efficiency", "--jobs", "3"], "--jobs 3 is only for grids of runs, and flowrl/efficiency is not a grid"),
    ],
)
def test_usage_errors(tmp_path: Path, flowbench, arguments: list[str], message: str) -> None:
    status, out, err = flowbench("paper", *arguments, "--dry-run", "--results", tmp_path)
    assert (status, out) == (2, "")
    assert message in err


def test_extrapolation_counts_each_part_where_it_happens() -> None:
    # 10 steps of which 8 learned: 0.1 s of acting a learned step, 0.05 of the environment a step, 2 s an evaluation
    wall = {"act": 0.8, "environment": 0.5, "update": 1.6, "replay": 0.0, "evaluation": 2.0}
    assert timing.seconds_for(1000, wall, 10, 8, 100) == pytest.approx(1000 * (0.1 + 0.05 + 0.2) + 10 * 2.0)


@pytest.mark.slow
def test_a_timing_is_measured_and_drawn(tmp_path: Path) -> None:
    shares: list[float] = []
    scale = {"task": "cartpole-balance", "algo": ["td3", "sac"], "extrapolate": 1000, "steps": 20, "set": ["hidden=8"]}
    found = timing.run(scale, tmp_path, "cpu", shares.append)
    assert [row[0].partition("[")[0] for row in found.rows] == ["td3", "sac"]
    assert all(float(row[1]) >= 0 and float(row[2]) > 0 for row in found.rows)
    assert [path.suffix for path in found.figures] == [".svg", ".pdf", ".png"]
    assert all(path.stat().st_size > 0 for path in found.figures)
    assert shares == [0.5, 1.0]


def test_a_timing_is_drawn_as_points_with_their_numbers() -> None:
    figure = timing.draw([("td3", 2.14, 0.164), ("qvpo", 176.2, 5.09)], "dog-run", 1_000_000)
    left, right = figure.axes
    assert not left.patches  # a bar's length means nothing on a logarithmic axis
    assert [line.get_xdata().tolist() for line in (*left.lines, *right.lines)] == [[2.14, 176.2], [0.164, 5.09]]
    assert [text.get_text() for text in left.texts] == ["2.14", "176"]


# The bandit


def test_reward_at_the_centres() -> None:
    assert bandit.reward(bandit.CENTRES).tolist() == pytest.approx(bandit.REWARDS.tolist(), abs=0.02)
    assert bandit.reward(torch.tensor([[9.0, 9.0]])).item() == pytest.approx(0.0, abs=1e-6)


def test_the_spread_by_hand() -> None:
    assert bandit.spread(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.slow
def test_guided_samples_are_better_and_closer_together_than_plain_ones(seed: int) -> None:
    stored = bandit.replay(torch.Generator().manual_seed(seed))
    guided = bandit.train(stored, True, 150, seed, lambda _: None)
    plain = bandit.train(stored, False, 150, seed, lambda _: None)
    stored_reward = bandit.reward(stored).mean().item()
    assert guided.reward > 0.75 > stored_reward + 0.2
    assert plain.reward < stored_reward + 0.05
    assert guided.spread < 0.5 * plain.spread
