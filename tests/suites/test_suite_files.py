"""Suite files: what a good one means, and one clear line for each mistake in a bad one."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

import suites

GOOD = """\
title: Mine
source: dm_control
action_repeat: 1
steps: 1_000
evaluation: {every: 100, episodes: 2}
score: {low: 0, high: 1000}
tasks:
  - cartpole-swingup
"""


def write(folder: Path, text: str | bytes, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def mistake(name_or_path: str, **options: bool) -> str:
    with pytest.raises(suites.SuiteError) as caught:
        suites.load(name_or_path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_minimal_file(tmp_path: Path) -> None:
    suite = suites.load(write(tmp_path, GOOD))
    score = suites.Score(0.0, 1000.0)
    assert suite == suites.Suite(
        name="mine",
        title="Mine",
        tasks=(suites.Task("cartpole-swingup", "dm_control", 1, score),),
        steps=1000,
        evaluation=suites.Evaluation(every=100, episodes=2),
    )
    assert suite.comparable
    assert suite.note == ""
    assert suite.overrides == {}
    assert pickle.loads(pickle.dumps(suite)) == suite
    assert isinstance(hash(suite), int)


def test_a_task_may_have_settings_of_its_own(tmp_path: Path) -> None:
    text = (
        GOOD
        + """\
  - Pendulum-v1: {source: gymnasium, action_repeat: 2, score: {low: -1500}}
  - walker-walk:
      score: {high: 900.5}
overrides:
  flowrl: {tau: 0.95, lr: 1e-4}
comparable: false
note: Only mine.
"""
    )
    suite = suites.load(write(tmp_path, text))
    assert suite.tasks[1:] == (
        suites.Task("Pendulum-v1", "gymnasium", 2, suites.Score(-1500.0, 1000.0)),
        suites.Task("walker-walk", "dm_control", 1, suites.Score(0.0, 900.5)),
    )
    assert suite.overrides == {"flowrl": {"tau": 0.95, "lr": 1e-4}}
    assert not suite.comparable
    assert suite.note == "Only mine."


def test_defaults_may_be_left_out_where_every_task_has_its_own(tmp_path: Path) -> None:
    text = GOOD
    for line in ("source: dm_control\n", "action_repeat: 1\n", "score: {low: 0, high: 1000}\n"):
        text = text.replace(line, "")
    text = text.replace(
        "- cartpole-swingup", "- cartpole-swingup: {source: dm_control, action_repeat: 4, score: {low: 1, high: 2}}"
    )
    assert suites.load(write(tmp_path, text)).tasks == (
        suites.Task("cartpole-swingup", "dm_control", 4, suites.Score(1.0, 2.0)),
    )


def test_files_in_the_current_folder_and_with_a_bom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "\ufeff" + GOOD, "mine.yml")
    monkeypatch.chdir(tmp_path)
    assert suites.load("mine.yml").name == "mine"
    assert suites.load(os.path.join(".", "mine.yml")).name == "mine"


# What is replaced in GOOD, by what, and what the message must hold besides the file's name.
BAD = {
    "unknown key": ("steps:", "stps: 3\nsteps:", ["'stps'", "did you mean 'steps'"]),
    "unknown key, not text": ("steps:", "on: 3\nsteps:", ["key True"]),
    "unknown key of evaluation": ("every:", "evry: 3, every:", ["evaluation", "'evry'", "did you mean 'every'"]),
    "unknown key of score": ("high:", "hihg: 3, high:", ["score", "'hihg'", "did you mean 'high'"]),
    "unknown key of a task": ("- cartpole-swingup", "- cartpole-swingup: {sorce: x}", ["cartpole-swingup", "'source'"]),
    "no title": ("title: Mine\n", "", ["'title' is missing"]),
    "no steps": ("steps: 1_000\n", "", ["'steps' is missing"]),
    "no evaluation": ("evaluation: {every: 100, episodes: 2}\n", "", ["'evaluation' is missing"]),
    "no episodes": (", episodes: 2", "", ["evaluation", "'episodes' is missing"]),
    "no tasks": ("tasks:\n  - cartpole-swingup\n", "", ["'tasks' is missing"]),
    "no source": ("source: dm_control\n", "", ["tasks: cartpole-swingup: has no source"]),
    "no action repeat": ("action_repeat: 1\n", "", ["tasks: cartpole-swingup: has no action_repeat"]),
    "no score": ("score: {low: 0, high: 1000}\n", "", ["tasks: cartpole-swingup: has no score low"]),
    "no low": ("low: 0, ", "", ["tasks: cartpole-swingup: has no score low"]),
    "no high": (", high: 1000", "", ["tasks: cartpole-swingup: has no score high"]),
    "title is a number": ("Mine", "7", ["title: must be text, got 7"]),
    "title is nothing": ("title: Mine", "title:", ["title: must be text, got nothing"]),
    "title is empty": ("Mine", "' '", ["title: must not be empty"]),
    "steps are true": ("1_000", "true", ["steps: must be a whole number", "True"]),
    "steps are 1e6": ("1_000", "1e6", ["steps: must be a whole number", "1_000_000"]),
    "steps are text": ("1_000", "'1000'", ["steps: must be a whole number", "'1000'"]),
    "steps are a fraction": ("1_000", "10.5", ["steps: must be a whole number"]),
    "no step": ("1_000", "0", ["steps: must be a whole number of at least 1"]),
    "negative steps": ("1_000", "-5", ["steps: must be a whole number of at least 1"]),
    "every 0": ("every: 100", "every: 0", ["evaluation: every: must be a whole number of at least 1"]),
    "every beyond steps": ("every: 100", "every: 1_001", ["evaluation: every", "1001", "1000 steps"]),
    "no episode": ("episodes: 2", "episodes: 0", ["evaluation: episodes: must be a whole number of at least 1"]),
    "action repeat 0": ("repeat: 1", "repeat: 0", ["action_repeat: must be a whole number of at least 1"]),
    "a task's action repeat": ("swingup", "swingup: {action_repeat: 0}", ["cartpole-swingup: action_repeat: must"]),
    "evaluation is a number": ("{every: 100, episodes: 2}", "100", ["evaluation: must be a mapping", "100"]),
    "unknown source": ("dm_control", "dm_contrl", ["source: unknown source 'dm_contrl', did you mean 'dm_control'"]),
    "source is a list": ("dm_control", "[dm_control]", ["source: must be text"]),
    "a bound is text": ("low: 0", "low: zero", ["score: low: must be a finite number, got 'zero'"]),
    "a bound is true": ("low: 0", "low: true", ["score: low: must be a finite number, got True"]),
    "a bound is nan": ("low: 0", "low: .nan", ["score: low: must be a finite number, got nan"]),
    "a bound is inf": ("high: 1000", "high: .inf", ["score: high: must be a finite number, got inf"]),
    "a bound beyond floats": ("high: 1000", "high: 1" + "0" * 400, ["score: high: must be a finite number"]),
    "low is high": ("low: 0", "low: 1000", ["cartpole-swingup: score: low must be below high"]),
    "low above high": ("low: 0", "low: 1001", ["cartpole-swingup: score: low must be below high"]),
    "tasks are empty": ("  - cartpole-swingup", "  []", ["tasks: must name at least one task"]),
    "tasks are nothing": ("  - cartpole-swingup", "", ["tasks: must be a list", "nothing"]),
    "tasks are a name": ("\n  - cartpole-swingup", " cartpole-swingup", ["tasks: must be a list"]),
    "tasks are a mapping": ("- cartpole-swingup", "cartpole-swingup: {}", ["tasks: must be a list"]),
    "a task is a number": ("- cartpole-swingup", "- 3", ["tasks: must be the name of a task, got 3"]),
    "a task leaves its folder": ("cartpole-swingup", "../x", ["tasks: must be the name of a task, got '../x'"]),
    "a task is twice": (
        "- cartpole",
        "- cartpole-swingup\n  - cartpole",
        ["tasks: 'cartpole-swingup' is listed twice"],
    ),
    "settings not indented": ("swingup", "swingup:\n    source: gymnasium", ["tasks: must be a name, or a name with"]),
    "settings are nothing": ("swingup", "swingup:", ["tasks: cartpole-swingup: must be a mapping", "nothing"]),
    "unknown task": ("swingup", "swingpu", ["tasks: cartpole-swingpu: unknown", "did you mean 'cartpole-swingup'"]),
    "task of another source": ("dm_control", "humanoid_bench", ["tasks: cartpole-swingup: unknown", "h1-walk"]),
    "comparable is text": ("steps:", "comparable: 'no'\nsteps:", ["comparable: must be true or false, got 'no'"]),
    "note is a list": ("steps:", "note: [a]\nsteps:", ["note: must be text"]),
    "overrides are a list": ("steps:", "overrides: [sac]\nsteps:", ["overrides: must be a mapping"]),
    "overrides of nothing": ("steps:", "overrides: {sac: }\nsteps:", ["overrides: sac: must be a mapping", "nothing"]),
    "overrides by number": (
        "steps:",
        "overrides: {sac: {1: 2}}\nsteps:",
        ["overrides: sac: a key must be text, got 1"],
    ),
    "a key is twice": ("action_repeat:", "title: Other\naction_repeat:", ["line 3", "'title' is given twice"]),
    "an inner key is twice": ("low: 0", "low: 0, low: 1", ["line 6", "'low' is given twice"]),
    "a syntax error": ("1_000", "'1' 000", ["line 4", "not YAML"]),
    "a tab": ("  - cart", "\t- cart", ["line 8", "not YAML"]),
    "a second document": ("steps:", "---\nsteps:", ["not YAML"]),
    "an impossible date": ("Mine", "2024-13-45", ["not YAML"]),
    "a Python object": ("Mine", "!!python/object:os.system {}", ["line 1", "not YAML"]),
    "a control character": ("Mine", "\x07", ["not YAML"]),
}


@pytest.mark.parametrize(("old", "new", "words"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_gives_one_line(old: str, new: str, words: list[str], tmp_path: Path) -> None:
    assert GOOD.count(old) >= 1
    path = write(tmp_path, GOOD.replace(old, new, 1))
    message = mistake(path)
    for word in [path, *words]:
        assert word in message


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "just text\n", "3\n"])
def test_a_file_that_is_no_mapping(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    assert f"{path}: must be a mapping" in mistake(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    for path in (str(tmp_path / "none.yaml"), str(folder), str(tmp_path) + os.sep):
        assert "cannot be read" in mistake(path)
    assert "not UTF-8" in mistake(write(tmp_path, GOOD.encode("utf-16")))
    assert "not UTF-8" in mistake(write(tmp_path, GOOD.encode() + b"# \xe9\n"))


@pytest.mark.parametrize("name", ["Mine.yaml", "my suite.yaml", "-mine.yaml", "mine.v2.yaml"])
def test_the_file_name_is_a_name(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, name)
    message = mistake(path)
    assert path in message
    assert "a-z" in message


def test_a_shipped_name_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, "dmc-hard.yaml")
    assert f"{path}: 'dmc-hard' is the name of a suite of flowbench" in mistake(path)
    shipped = Path(suites.__file__).parent / "dmc-hard.yaml"
    assert suites.load(str(shipped), check_tasks=False) == suites.load("dmc-hard", check_tasks=False)


def test_unknown_suite() -> None:
    message = mistake("dmc-hrad")
    assert "unknown suite 'dmc-hrad', did you mean 'dmc-hard'" in message
    assert all(name in message for name in suites.names())


def test_names_are_checked_only_on_request(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("cartpole-swingup", "no-such"))
    assert suites.load(path, check_tasks=False).tasks[0].name == "no-such"
    assert "no-such" in mistake(path)


def test_a_task_by_name() -> None:
    suite = suites.load("quick", check_tasks=False)
    assert suite.task("walker-stand").name == "walker-stand"
    with pytest.raises(suites.SuiteError, match="unknown task of suite quick 'walker-stnad', did you mean 'walker-st"):
        suite.task("walker-stnad")


def test_scores() -> None:
    score = suites.Score(low=100.0, high=300.0)
    assert score.normalise(150.0) == 0.25
    np.testing.assert_allclose(score.normalise(np.array([[100.0, 300.0], [0.0, 500.0]])), [[0.0, 1.0], [-0.5, 2.0]])
    for low, high in ((1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))):
        with pytest.raises(suites.SuiteError):
            suites.Score(low, high)
