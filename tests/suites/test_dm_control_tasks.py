"""One contract for every DeepMind Control task of the shipped suites, and the adapter's corners."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import suites
from suites.dm_control import DMControl

Pair = tuple[suites.Task, gymnasium.Env[Any, Any], gymnasium.Env[Any, Any]]

TASKS = {
    task.name: task
    for name in suites.names()
    for task in suites.load(name, check_tasks=False).tasks
    if task.source == "dm_control"
}
DIMENSIONS = {  # by domain: observation, action
    "dog": (223, 38), "humanoid": (67, 21), "quadruped": (78, 12), "walker": (24, 6), "hopper": (15, 4),
    "cartpole": (5, 1), "cheetah": (17, 6),
}  # fmt: skip


def make(name: str, action_repeat: int = 1) -> gymnasium.Env[Any, Any]:
    return suites.make(suites.Task(name, "dm_control", action_repeat, suites.Score(0, 1000)))


@pytest.fixture(scope="module", params=TASKS)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A task and two environments of it, built once for all tests of the contract: the dog takes a second."""
    task = TASKS[request.param]
    envs = suites.make(task), suites.make(task)
    yield task, *envs
    for env in envs:
        env.close()


def test_spaces(pair: Pair) -> None:
    task, env, _ = pair
    assert isinstance(env.observation_space, gymnasium.spaces.Box)
    assert env.observation_space.dtype == np.float32
    assert len(env.observation_space.shape) == 1
    assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, env.action_space.shape, np.float32)
    expected = DIMENSIONS.get(task.name.split("-")[0])
    if expected:
        assert (*env.observation_space.shape, *(env.action_space.shape or ())) == expected


def test_a_seed_is_an_episode_whatever_ran_before(pair: Pair) -> None:
    _, env, twin = pair
    actions = np.random.default_rng(0).uniform(-1, 1, (20, *env.action_space.shape)).astype(np.float32)

    def episode(env: gymnasium.Env[Any, Any]) -> np.ndarray:
        obs, info = env.reset(seed=5)
        assert info == {}
        return np.stack([obs, *(env.step(action)[0] for action in actions)])

    first = episode(env)
    env.reset(seed=6)
    for action in actions[:7]:
        env.step(action)
    env.reset()
    env.step(actions[0])
    np.testing.assert_array_equal(episode(env), first)
    np.testing.assert_array_equal(episode(twin), first)


def test_seeds_and_the_stream_after_a_seed(pair: Pair) -> None:
    _, env, twin = pair
    first, _ = env.reset(seed=0)
    second, _ = env.reset()
    other, _ = env.reset(seed=1)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, second)
    twin.reset(seed=0)
    np.testing.assert_array_equal(twin.reset()[0], second)


@pytest.mark.slow
def test_a_whole_episode(pair: Pair) -> None:
    _, env, _ = pair
    env.action_space.seed(0)
    obs, _ = env.reset(seed=0)
    for step in range(1, 1001):
        assert obs in env.observation_space  # shape and dtype too
        assert np.isfinite(obs).all()
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert type(reward) is float
        assert 0.0 <= reward <= 1.0
        assert terminated is False
        assert truncated is (step == 1000)
        assert info == {}
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(env.action_space.sample())


@pytest.fixture
def suite() -> Any:
    """dm_control's own loader, after the adapter has imported it its way."""
    suites.tasks("dm_control")
    return importlib.import_module("dm_control.suite")


def test_a_seed_is_the_one_that_dm_control_knows(suite: Any) -> None:
    reference = suite.load("walker", "walk", task_kwargs={"random": 11})
    expected = reference.reset().observation
    env = make("walker-walk")
    obs, _ = env.reset(seed=11)
    np.testing.assert_array_equal(obs, np.concatenate([np.ravel(part) for part in expected.values()]).astype("f4"))


class FakeEnvironment:
    """What the adapter uses of dm_control: two arrays to see, uneven action bounds, an end when it is told."""

    def __init__(self, discount: float = 1.0, last_at: int = 10) -> None:
        from dm_env import specs

        self.actions: list[np.ndarray] = []
        self.discount, self.last_at = discount, last_at
        self.spec = specs.BoundedArray((2,), np.float64, minimum=[-2.0, 0.0], maximum=[2.0, 5.0])
        self.task = type("Task", (), {"random": np.random.RandomState(0)})()

    def control_timestep(self) -> float:
        return 0.02

    def action_spec(self) -> Any:
        return self.spec

    def _observation(self) -> dict[str, Any]:
        return {"z": np.array([[1.0, 2.0]]), "a": float(len(self.actions))}

    def observation_spec(self) -> dict[str, Any]:
        from dm_env import specs

        return {"z": specs.Array((1, 2), np.float64), "a": specs.Array((), np.float64)}

    def reset(self) -> Any:
        import dm_env

        self.actions = []
        return dm_env.restart(self._observation())

    def step(self, action: np.ndarray) -> Any:
        import dm_env

        self.actions.append(action)
        last = len(self.actions) == self.last_at
        kind = dm_env.StepType.LAST if last else dm_env.StepType.MID
        return dm_env.TimeStep(kind, 0.25, self.discount if last else 1.0, self._observation())


def test_observations_keep_their_order_and_actions_reach_the_bounds() -> None:
    inner = FakeEnvironment()
    env = DMControl(inner)
    assert env.observation_space.shape == (3,)
    np.testing.assert_array_equal(env.reset()[0], np.array([1, 2, 0], np.float32))
    for action in ([1, 1], [-1, -1], [0, 0], [7, -7]):
        env.step(np.array(action, np.float32))
    np.testing.assert_array_equal(inner.actions, [[2, 5], [-2, 0], [0, 2.5], [2, 0]])


def test_actions_reach_the_bounds_of_a_real_task() -> None:
    env = make("quadruped-run")
    env.reset(seed=0)
    ctrl = env.unwrapped._env.physics.data.ctrl  # type: ignore[attr-defined]
    for sign, bound in ((1.0, [1, 1.1, 0.8]), (-1.0, [-1, -1, -0.8])):
        env.step(np.full(12, sign, np.float32))
        np.testing.assert_allclose(ctrl.copy(), np.tile(bound, 4))


@pytest.mark.parametrize("discount", [0.0, 1.0])
def test_an_end_is_told_from_a_time_limit(discount: float) -> None:
    env = DMControl(FakeEnvironment(discount, last_at=2))
    env.reset()
    action = np.zeros(2, np.float32)
    assert env.step(action)[2:4] == (False, False)
    assert env.step(action)[2:4] == (discount == 0, discount == 1)


def test_a_task_that_truly_ends(suite: Any) -> None:
    env = DMControl(suite.load("lqr", "lqr_2_1"))  # it ends where position and velocity are zero
    env.reset(seed=0)
    action = np.zeros(1, np.float32)
    assert env.step(action)[2:4] == (False, False)
    with env._env.physics.reset_context():  # which puts the masses there
        pass
    assert env.step(action)[2:4] == (True, False)


def test_action_repeat_sums_rewards_and_stops_at_the_end() -> None:
    once, thrice = make("cartpole-balance"), make("cartpole-balance", action_repeat=3)
    once.reset(seed=2)
    thrice.reset(seed=2)
    action = np.array([0.3], np.float32)
    for step in range(1, 335):  # 333 steps of three, and one that finds a single one left
        rewards: list[float] = []
        truncated = False
        while len(rewards) < 3 and not truncated:
            obs, reward, _, truncated, _ = once.step(action)
            rewards.append(float(reward))
        repeated = thrice.step(action)
        np.testing.assert_array_equal(repeated[0], obs)
        assert repeated[1] == pytest.approx(sum(rewards), abs=1e-12)
        assert repeated[2:4] == (False, truncated)
        assert truncated is (step == 334)
    assert len(rewards) == 1


def test_tasks_that_cannot_be_made() -> None:
    names = suites.tasks("dm_control")
    assert len(names) == len(set(names)) > 40
    assert not [name for name in names if name.startswith("lqr")]
    with pytest.raises(suites.SuiteError, match="unknown dm_control task 'dog-rum', did you mean 'dog-run'"):
        make("dog-rum")
    with pytest.raises(suites.SuiteError, match="unknown dm_control task 'dog'"):
        make("dog")


@pytest.mark.parametrize("chosen", [None, "disable"])
def test_no_rendering_backend_and_no_warning_without_a_display(chosen: str | None) -> None:
    code = f"""
import os, sys
import suites
env = suites.make(suites.load("quick").tasks[0])
env.reset(seed=0)
assert not [name for name in sys.modules if name.startswith("dm_control._render.") and "renderer" in name]
assert os.environ.get("MUJOCO_GL") == {chosen!r}
import mujoco
assert hasattr(mujoco, "GLContext") == {chosen is None}
"""
    hidden = ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")
    environ = {key: value for key, value in os.environ.items() if key not in hidden}
    if chosen:
        environ["MUJOCO_GL"] = chosen
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(suites.__file__).parents[1],
        env=environ,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_environment_that_is_asked_to_be_rendered_is_the_same_one_and_gives_pictures_that_change() -> None:
    code = """
import sys
import numpy as np
import suites
env = suites.make(suites.Task("pendulum-swingup", "dm_control", 2, suites.Score(0, 1000)), render=True)
bare = suites.make(suites.Task("pendulum-swingup", "dm_control", 2, suites.Score(0, 1000)))
try:  # dm_control's own: whether anything can be drawn on this machine
    import dm_control.suite  # after the adapter has chosen what draws
    dm_control.suite.load("pendulum", "swingup").physics.render(8, 8)
except Exception as error:
    sys.exit(f"no OpenGL: {error}")
seen = [(env.reset(seed=3)[0], bare.reset(seed=3)[0])]
first = env.render()
for _ in range(10):
    seen.append((env.step(np.ones(1, np.float32))[0], bare.step(np.ones(1, np.float32))[0]))
last = env.render()
assert first.shape == (480, 640, 3) and first.dtype == np.uint8
assert (first != last).any()
assert all((one == other).all() for one, other in seen)
assert env.metadata["render_fps"] == 50
"""
    environ = {key: value for key, value in os.environ.items() if key not in ("MUJOCO_GL", "DISPLAY")}
    root = Path(suites.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environ, capture_output=True, text=True)
    if "no OpenGL" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
