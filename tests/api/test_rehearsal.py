"""What `run --dry-run` tries before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from fakes import TINY, Walk, write_algorithm, write_suite

GYM: dict[str, Any] = {"source": "gymnasium", "score": {"low": -1500, "high": 0}, "overrides": {}}


class Broken(Walk):
    """Raises at its first step."""

    def step(self, action):
        raise KeyError("no such joint")


class Infinite(Walk):
    """Begins with an observation that is not finite."""

    def reset(self, *, seed=None, options=None):
        return np.full(2, np.inf, np.float32), {}


@pytest.fixture(autouse=True)
def _register():
    for kind in (Broken, Infinite, Walk):
        gymnasium.register(f"{kind.__name__}-v0", kind, max_episode_steps=5)
    yield
    for kind in (Broken, Infinite, Walk):
        del gymnasium.registry[f"{kind.__name__}-v0"]


def arguments(folder: Path, *algo: str, tasks: tuple[str, ...] = ("Walk-v0",)) -> list[object]:
    suite = write_suite(folder, **GYM, tasks=list(tasks))
    return ["run", "--suite", suite, "--algo", ",".join(algo), "--seeds", "2", "--results", folder / "r", "--dry-run"]


def test_what_works_is_one_line_more(flowbench, tmp_path: Path, script) -> None:
    own = write_algorithm(tmp_path, "Own", "pass")
    given = arguments(tmp_path, f"td3[{TINY}]", f"{own}[{TINY}]", f"sac[{TINY}]", tasks=("Walk-v0", "Pendulum-v1"))
    status, out, err = flowbench(*given)
    assert (status, err) == (0, "")
    assert out.endswith("\ntried: 3 variants and 2 tasks work\n")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("update", "head", "line", "reason"),
    [
        ("raise RuntimeError('went wrong')", "", "raise RuntimeError('went wrong')", "RuntimeError: went wrong"),
        ("learner.minimise('critics', self.critic_loss, batch)", "", "learner.minimise('critics', ", "Error: "),
        ("batch.obs @ batch.action", "", "batch.obs @ batch.action", "RuntimeError: "),
        ("sys.exit(3)", "", "sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_mistake_in_an_algorithm_is_one_line_with_its_place(
    flowbench, tmp_path: Path, script, update: str, head: str, line: str, reason: str
) -> None:
    spec = write_algorithm(tmp_path, "Own", update, head)
    path = spec.partition(":")[0]
    number = next(n for n, text in enumerate(Path(path).read_text().splitlines(), 1) if update in text)
    status, out, err = flowbench(*arguments(tmp_path, f"{spec}[{TINY}]"))
    assert status == 2
    assert "2 cells, 2 to run" in out
    assert err.count("\n") == 1
    assert err.startswith(f"flowbench: algorithm 'own[batch_size=4,hidden=8]': {path}:{number} ({line}")
    assert reason in err


def test_actions_of_a_wrong_shape_name_the_file(flowbench, tmp_path: Path, script) -> None:
    spec = write_algorithm(tmp_path, "Own", "pass")
    path = Path(spec.partition(":")[0])
    path.write_text(path.read_text() + "\n    def act(self, obs, explore):\n        return self.actor(obs)[0]\n")
    status, _, err = flowbench(*arguments(tmp_path, f"{spec}[{TINY}]"))
    assert (status, err) == (
        2,
        f"flowbench: algorithm 'own[batch_size=4,hidden=8]': {path}: ValueError: act(obs, explore=True) gave shape "
        "(1,) for 3 observations, not (3, 1)\n",
    )


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("Broken-v0", f"{__file__}:20 (raise KeyError(\"no such joint\")): KeyError: 'no such joint'"),
        ("Infinite-v0", "EnvironmentFault: the environment returned an observation that is not finite"),
    ],
)
def test_a_task_that_fails_is_one_line(flowbench, tmp_path: Path, script, task: str, said: str) -> None:
    status, _, err = flowbench(*arguments(tmp_path, f"td3[{TINY}]", tasks=("Walk-v0", task)))
    assert (status, err) == (2, f"flowbench: task {task!r}: {said}\n")


def test_every_problem_is_named(flowbench, tmp_path: Path, script) -> None:
    specs = [f"{write_algorithm(tmp_path, name, f'raise ValueError({name!r})')}[{TINY}]" for name in ("One", "Two")]
    status, _, err = flowbench(*arguments(tmp_path, *specs, f"td3[{TINY}]", tasks=("Broken-v0",)))
    assert status == 2
    starts = ["flowbench: task 'Broken-v0': ", "flowbench: algorithm 'one[", "flowbench: algorithm 'two["]
    assert [line.startswith(start) for line, start in zip(err.splitlines(), starts, strict=True)] == [True] * 3
