"""From options to cells: what is asked for is what is trained, and another config is another variant."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from fakes import make_cell, write_algorithm, write_suite

from flowbench.common.errors import UsageError
from flowbench.plan.cells import Protocol, task_folder
from flowbench.plan.expand import expand, parse_seeds

QUICK_START = {name: {"random_steps": 50} for name in ("flowrl", "sac", "td3", "qvpo")}


@pytest.fixture
def suite(tmp_path: Path) -> str:
    return write_suite(tmp_path, overrides={**QUICK_START, "td3": {"hidden": 32, "random_steps": 50}})


def variants(suite: str, *algorithms: str, **options):
    cells = expand(suite, algorithms, "1", tasks=["cartpole-balance"], **options)
    return [cell.variant for cell in cells]


def variant(suite: str, algorithm: str, **options):
    (found,) = variants(suite, algorithm, **options)
    return found


# Seeds


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("1", [0]),
        ("5", [0, 1, 2, 3, 4]),
        ("0-0", [0]),
        ("3-3", [3]),
        ("2-5", [2, 3, 4, 5]),
        ("0,3,7", [0, 3, 7]),
        ("7,3", [7, 3]),
        ("0-2,8", [0, 1, 2, 8]),
        (" 0 - 2 , 8 ", [0, 1, 2, 8]),
        ("4294967295-4294967295", [2**32 - 1]),
    ],
)
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "five", "1.5", "1,", ",1", "1,,2", "3-1", "1-", "-3", "0,0", "0-3,2", "1e3", "0..5",
             "4294967296-4294967296", "0-4294967295"]
)  # fmt: skip
def test_seeds_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_seeds(text)
    assert text in str(caught.value)


# The grid


def test_a_grid_is_every_task_with_every_algorithm_and_seed(suite: str) -> None:
    cells = expand(suite, ["td3,sac"], "0,4")
    found = [(cell.task.name, cell.variant.entry.name, cell.seed) for cell in cells]
    tasks = ("cartpole-balance", "pendulum-swingup")
    assert sorted(found) == sorted((t, a, s) for t in tasks for a in ("td3", "sac") for s in (0, 4))
    assert [cell.seed for cell in cells] == [0] * 4 + [4] * 4  # whole seeds first
    assert len({cell.path for cell in cells}) == len(cells)


def test_tasks_can_be_chosen(suite: str) -> None:
    cells = expand(suite, ["td3"], "1", tasks=["pendulum-swingup", "pendulum-swingup"])
    assert [cell.task.name for cell in cells] == ["pendulum-swingup"]
    with pytest.raises(ValueError, match=r"'pendulum-swingp', did you mean 'pendulum-swingup'"):
        expand(suite, ["td3"], "1", tasks=["pendulum-swingp"])


def test_paths_lie_below_the_suite_and_task(suite: str) -> None:
    (cell,) = expand(suite, ["td3"], "3-3", tasks=["cartpole-balance"])
    assert cell.path == Path("mini/cartpole-balance/td3") / f"default-{cell.variant.config_id}" / "seed-3"
    assert str(cell) == "td3 cartpole-balance seed 3"


# Hyperparameters


def test_the_command_line_wins_over_the_suite_and_the_suite_over_the_algorithm(suite: str) -> None:
    config = variant(suite, "td3").config
    assert (config.hidden, config.random_steps, config.batch_size) == (32, 50, 256)
    config = variant(suite, "td3", settings=["hidden=16"]).config
    assert (config.hidden, config.random_steps) == (16, 50)
    assert variant(suite, "td3", settings=["hidden=16", "td3.hidden=8"]).config.hidden == 8
    assert variant(suite, "td3", settings=["td3.hidden=8", "hidden=16"]).config.hidden == 8
    assert variant(suite, "td3[hidden=4]", settings=["td3.hidden=8", "hidden=16"]).config.hidden == 4
    assert variant(suite, "sac").config.hidden == 256


def test_a_setting_reaches_all_that_have_it_or_the_one_that_is_named(suite: str) -> None:
    algorithms = "td3", "sac", "flowrl", "qvpo"
    everyone = variants(suite, *algorithms, settings=["lr=1e-4"])
    assert all(v.config.lr == 1e-4 for v in everyone if hasattr(v.config, "lr"))
    td3, sac, flowrl, _ = variants(suite, *algorithms, settings=["flowrl.lr=1e-5", "noise_clip=0.25"])
    assert (td3.config.lr, sac.config.lr, flowrl.config.lr) == (3e-4, 3e-4, 1e-5)
    assert td3.config.noise_clip == 0.25
    assert not hasattr(sac.config, "noise_clip")


def test_a_setting_reaches_every_variant_of_its_algorithm(suite: str) -> None:
    one, two = variants(suite, "flowrl,flowrl[constraint=false]", settings=["flowrl.flow_steps=3"])
    assert one.config.flow_steps == two.config.flow_steps == 3
    assert (one.config.constraint, two.config.constraint) == (True, False)


def test_values_are_typed_by_the_dataclass(suite: str) -> None:
    config = variant(suite, "flowrl[flow_steps=5,constraint=false,lr=1,scheme=euler]").config
    assert config.flow_steps == 5
    assert type(config.flow_steps) is int
    assert config.constraint is False
    assert type(config.lr) is float
    assert config.scheme == "euler"


def test_a_label_says_what_differs_from_the_suites_defaults(suite: str) -> None:
    assert variant(suite, "td3").label == "td3"
    assert variant(suite, "td3[hidden=32]").label == "td3"
    assert variant(suite, "td3[hidden=256]").label == "td3[hidden=256]"
    label = variant(suite, "flowrl[constraint=false,flow_steps=5]").label
    assert set(label.removeprefix("flowrl[").removesuffix("]").split(",")) == {"flow_steps=5", "constraint=false"}
    assert variant(suite, "td3", steps=100).label == "td3[steps=100]"
    assert variant(suite, "td3", steps=300).label == "td3"  # what the suite has


def test_steps_shorten_the_suite_and_its_evaluation_with_it(suite: str) -> None:
    assert variant(suite, "td3").protocol == Protocol(300, 150, 1)
    assert variant(suite, "td3", steps=1000).protocol == Protocol(1000, 150, 1)
    assert variant(suite, "td3", steps=100).protocol == Protocol(100, 100, 1)
    with pytest.raises(UsageError, match="at least 1, got 0"):
        variant(suite, "td3", steps=0)


# The id of a configuration


def test_an_id_does_not_depend_on_how_the_config_was_written(suite: str) -> None:
    ids = {
        variant(suite, "td3[lr=1e-3,hidden=8]").config_id,
        variant(suite, "td3[hidden=8,lr=0.001]").config_id,
        variant(suite, "td3", settings=["lr=.001", "hidden=8.0"]).config_id,
        variant(suite, "td3[hidden=8]", settings=["td3.lr=1e-3"]).config_id,
    }
    assert len(ids) == 1
    assert re.fullmatch("[0-9a-f]{8}", ids.pop())


def test_whatever_decides_the_numbers_is_in_the_id() -> None:
    base = make_cell().variant
    changes = [{field.name: _another(getattr(base.config, field.name))} for field in dataclasses.fields(base.config)]
    others = [make_cell(config=dataclasses.replace(base.config, **change)).variant for change in changes]
    others += [make_cell(steps=41).variant, make_cell(every=21).variant, make_cell(episodes=2).variant]
    others += [make_cell("sac").variant]
    ids = [base.config_id, *(other.config_id for other in others)]
    assert len(set(ids)) == len(ids)
    assert len({v.folder for v in [base, *others]}) == len(ids)


def _another(value: float) -> float:
    return value + 1 if type(value) is int else value / 2 + 0.125


def test_task_and_seed_are_not_in_the_id() -> None:
    assert make_cell(seed=1).variant.config_id == make_cell(seed=2).variant.config_id


def test_editing_an_algorithms_file_makes_another_variant(tmp_path: Path) -> None:
    spec = write_algorithm(tmp_path, "Mine", "pass")
    suite = write_suite(tmp_path)
    first = variant(suite, spec)
    assert first.entry.name == "mine"
    before = first.config_id
    with open(spec.partition(":")[0], "a") as file:
        file.write("# edited\n")
    assert variant(suite, spec).config_id != before


@pytest.mark.parametrize(
    "label", ["td3[a=../../x]", "td3[a=b/c d:*]", "td3[" + ",".join(f"k{n}=1" for n in range(99)) + "]"]
)
def test_a_folder_is_one_name_of_plain_characters(label: str) -> None:
    folder = make_cell(label=label).variant.folder
    assert re.fullmatch(r"[A-Za-z0-9_.=,+-]{1,100}", folder)
    assert folder not in (".", "..")


# Mistakes


@pytest.mark.parametrize(
    ("algorithms", "settings", "words"),
    [
        (["flowrll"], [], ["'flowrll'", "did you mean 'flowrl'"]),
        (["sac[alpha=1]"], [], ["sac[alpha=1]", "'alpha'"]),
        (["sac[hiden=1]"], [], ["'hiden'", "did you mean 'hidden'"]),
        (["sac[hidden=0]"], [], ["hidden", "got 0"]),
        (["sac[hidden=big]"], [], ["hidden='big'", "an integer"]),
        (["sac,sac"], [], ["same configuration", "sac"]),
        (["sac,sac[hidden=256]"], [], ["same configuration"]),
        (["sac"], ["lr"], ["'lr'", "key=value"]),
        (["sac"], ["lrr=1"], ["lrr=1", "did you mean 'lr'"]),
        (["sac"], ["td3.lr=1"], ["'td3'", "choices: sac"]),
        (["sac,td3"], ["sc.lr=1"], ["'sc'", "did you mean 'sac'"]),
        (["sac"], ["sac.flow_steps=1"], ["'flow_steps'"]),
        (["sac"], ["gamma=2"], ["gamma", "got 2"]),
        (["sac,"], [], ["cannot read algorithm ''"]),
    ],
)
def test_mistakes_name_what_is_wrong(suite: str, algorithms: list[str], settings: list[str], words: list[str]) -> None:
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        variants(suite, *algorithms, settings=settings)
    for word in words:
        assert word in str(caught.value)


def test_a_suites_overrides_are_checked_too(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, overrides={"td3": {"hiden": 1}})
    with pytest.raises(UsageError, match=r"suite 'mini', overrides of td3: unknown hyperparameter 'hiden'"):
        variants(suite, "td3")
    with pytest.raises(UsageError, match="'hiden'"):  # also when the algorithm is not one of the grid
        variants(suite, "sac")
    suite = write_suite(tmp_path, overrides={**QUICK_START, "SACC": {"hidden": 1}})
    with pytest.raises(UsageError, match=r"'SACC'.*did you mean 'sac'"):
        variants(suite, "sac")
    suite = write_suite(tmp_path, overrides={"td3": {"hidden": -1}})
    with pytest.raises(UsageError, match=r"suite 'mini', overrides of td3: hidden must be at least 1, got -1"):
        variants(suite, "td3")


def test_a_run_must_have_steps_to_learn_in(suite: str) -> None:
    with pytest.raises(UsageError, match=r"random_steps=300 leaves none of the 300 steps"):
        variants(suite, "sac[random_steps=300]")
    assert variants(suite, "sac[random_steps=299]")


def test_two_classes_of_one_name_are_told_apart_by_the_user(suite: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first, second = write_algorithm(tmp_path, "Mine", "pass"), write_algorithm(tmp_path / "other", "Mine", "pass")
    with pytest.raises(UsageError, match=r"two algorithms are named 'mine': .*mine\.py:Mine and .*other.*rename one"):
        variants(suite, f"{first},{second}")


def test_tasks_of_different_names_never_share_a_folder() -> None:
    assert task_folder("dog-run") == "dog-run"
    folders = {task_folder(name) for name in ("a:b/c-v0", "a:b_c-v0", "a_b_c-v0", "a_b/c-v0")}
    assert len(folders) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9_.=,+-]+", folder) for folder in folders)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_hyperparameter_that_is_no_number_is_refused_when_planning(suite: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"target_entropy_scale.*{value}"):
        variants(suite, f"sac[target_entropy_scale={value}]")
