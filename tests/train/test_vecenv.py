"""Environments in step, in process and in processes of their own: episodes that follow one another, what is refused.

The processes import this module, so it brings in nothing heavy.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import suites
from flowbench.common import child_process
from flowbench.common.child_process import RemoteTraceback
from flowbench.train.vecenv import ProcessVecEnv, VecEnv, make_vecenv

HERE = Path(__file__).parent
LINUX = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks into /proc")


class Tally(gymnasium.Env):
    """obs = [a number drawn with the seed, steps taken], reward = the action; it can go wrong in its second episode."""

    def __init__(self, length: int = 9, ends: str = "truncated", wrong: str = ""):
        if wrong == "constructor":
            raise LookupError("no such task")
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.length, self.ends, self.wrong = length, ends, wrong
        self.seeds: list[int | None] = []
        self.actions: list[float] = []
        self.closed = False

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        self.drawn, self.taken = np.random.default_rng(seed).normal(), 0
        if len(self.seeds) == 2 and self.wrong == "reset":
            raise OutOfStock("screws", 3)
        return self._obs(), {}

    def step(self, action):
        self.actions.append(float(action[0]))
        self.taken += 1
        if len(self.seeds) == 2:
            self._go_wrong()
        over = self.taken == self.length
        reward = np.inf if self.wrong == "reward" else float(action[0])
        return self._obs(), reward, over and self.ends == "terminated", over and self.ends == "truncated", {}

    def close(self):
        self.closed = True

    def _go_wrong(self):
        if self.wrong == "step":
            raise ZeroDivisionError("the second episode")
        if self.wrong == "text":
            raise ValueError("mesh \udcff is missing")
        if self.wrong == "exit":
            os._exit(3)
        if self.wrong == "hang":
            time.sleep(1000)

    def _obs(self):
        drawn = np.nan if self.wrong == "observation" and self.taken else self.drawn
        return np.array([drawn, self.taken], dtype=np.float32)


class OutOfStock(Exception):
    """Cannot be pickled back: its constructor wants more than its message."""

    def __init__(self, what: str, missing: int):
        super().__init__(f"{missing} {what} missing")


def seed_of(index: int, episode: int) -> int:
    return 100 * index + episode


def step(envs: VecEnv | ProcessVecEnv, *actions: float):
    envs.send(np.array(actions, dtype=np.float32)[:, None])
    return envs.receive()


def pids() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.name.startswith("environment")]


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return holds


def test_an_episode_is_followed_by_the_next() -> None:
    made = [Tally(3), Tally(2)]
    envs = VecEnv(made, seed_of)
    assert (envs.obs_dim, envs.act_dim) == (2, 1)
    assert envs.obs[:, 1].tolist() == [0, 0]
    for _ in range(6):
        step(envs, 0.1, 0.2)
    assert [env.seeds for env in made] == [[0, 1, 2], [100, 101, 102, 103]]
    assert envs.episodes == [3, 4]
    assert envs.obs[:, 1].tolist() == [0, 0]


def test_the_last_observation_of_an_episode_is_returned() -> None:
    envs = VecEnv([Tally(2), Tally(3)], seed_of)
    step(envs, 0.1, 0.1)
    result = step(envs, 0.1, 0.1)
    assert result.next_obs[:, 1].tolist() == [2, 2]  # the true last one of the first
    assert envs.obs[:, 1].tolist() == [0, 2]
    assert envs.obs[0, 0] == np.float32(np.random.default_rng(1).normal())
    assert envs.obs[1, 0] == result.next_obs[1, 0]
    assert not np.shares_memory(envs.obs, result.next_obs)


def test_a_returned_step_does_not_change_later() -> None:
    envs = VecEnv([Tally()], seed_of)
    first = step(envs, 0.5)
    kept = first.next_obs.copy()
    step(envs, 0.5)
    assert np.array_equal(first.next_obs, kept)


def test_termination_and_truncation_are_distinguished() -> None:
    envs = VecEnv([Tally(1, "terminated"), Tally(1, "truncated"), Tally(2)], seed_of)
    result = step(envs, 0.1, 0.2, 0.3)
    assert result.terminated.tolist() == [True, False, False]
    assert result.truncated.tolist() == [False, True, False]
    assert result.terminated.dtype == bool
    assert result.reward.dtype == np.float32
    np.testing.assert_allclose(result.reward, [0.1, 0.2, 0.3], rtol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("what", ["reward", "observation"])
def test_an_environment_with_values_that_are_not_finite_is_not_stepped_again(bad: float, what: str) -> None:
    class Broken(Tally):
        def step(self, action):
            obs, reward, *rest = super().step(action)
            if what == "reward":
                return obs, bad, *rest
            obs[1] = bad
            return obs, reward, *rest

    broken = Broken()
    envs, alone = VecEnv([Tally(), broken], seed_of), VecEnv([Tally()], seed_of)
    before = envs.obs[1].copy()
    for _ in range(4):
        result, expected = step(envs, 0.5, 0.5), step(alone, 0.5)
        assert envs.faults == {1: f"the environment returned a{'n' * (what[0] == 'o')} {what} that is not finite"}
        assert all(np.array_equal(both[0], one[0]) for both, one in zip(result, expected, strict=True))
        assert np.array_equal(result.next_obs[1], before)
        assert (result.reward[1], result.terminated[1], result.truncated[1]) == (0.0, False, False)
    assert len(broken.actions) == 1


@pytest.mark.parametrize(
    ("returned", "fault"),
    [
        ((np.zeros(3, np.float32), 0.0), r"an observation of shape \(3,\); its space says \(2,\)"),
        ((np.zeros((1, 2), np.float32), 0.0), r"an observation of shape \(1, 2\)"),
        ((np.float32(1.0), 0.0), r"an observation of shape \(\)"),
        ((np.zeros(2, np.float32), np.zeros(2)), r"a reward of shape \(2,\)"),
        ((np.zeros(2, np.float32), 1e300), "a reward that is not finite"),  # in float32, which replay holds
        ((["a", "b"], 0.0), "an observation of type <U1, not of real numbers"),
        ((np.array(["1", "2"]), 0.0), "an observation of type <U1, not of real numbers"),
        ((np.zeros(2, complex), 0.0), "an observation of type complex128, not of real numbers"),
        ((np.array([None, 1.0]), 0.0), "an observation of type object, not of real numbers"),
        ((np.zeros(2, np.float32), None), "a reward of type NoneType, not a real number"),
        ((np.zeros(2, np.float32), "1.5"), "a reward of type str, not a real number"),
        ((np.zeros(2, np.float32), 1 + 2j), "a reward of type complex, not a real number"),
        ((np.zeros(2, np.float32), 0.0, None), "terminated as None, not as true or false"),
        ((np.zeros(2, np.float32), 0.0, "no"), "terminated as 'no', not as true or false"),
        ((np.zeros(2, np.float32), 0.0, False, float("nan")), "truncated as nan, not as true or false"),
    ],
)
def test_values_of_a_wrong_shape_or_type_are_rejected(returned, fault: str) -> None:
    class Broken(Tally):
        def step(self, action):
            return *returned, *[False] * (4 - len(returned)), {}

    envs = VecEnv([Tally(), Broken()], seed_of)
    step(envs, 0.0, 0.0)
    assert envs.faults.keys() == {1}
    assert re.search(fault, envs.faults[1])


@pytest.mark.parametrize("flag", [np.bool_(True), 1, np.array([True]), 1.0])
def test_flags_may_be_numbers_and_arrays(flag) -> None:
    class Flagged(Tally):
        def step(self, action):
            return *super().step(action)[:2], flag, np.bool_(False), {}

    envs = VecEnv([Flagged()], seed_of)
    assert step(envs, 0.0).terminated.tolist() == [True]
    assert not envs.faults


def test_a_first_observation_of_a_wrong_type_is_rejected() -> None:
    class Broken(Tally):
        def reset(self, **options):
            obs, info = super().reset(**options)
            return obs.astype(complex), info

    assert VecEnv([Broken()], seed_of).faults == {
        0: "the environment returned an observation of type complex128, not of real numbers"
    }


@pytest.mark.parametrize("processes", [0, 2])
def test_a_retired_environment_stands_still_and_is_no_fault(processes: int) -> None:
    envs = make_vecenv(Tally, 2, seed_of, processes)
    try:
        envs.retire(0)
        before = envs.obs[0].copy()
        for _ in range(3):
            result = step(envs, 0.5, 0.5)
        assert np.array_equal(result.next_obs[0], before)
        assert not np.array_equal(result.next_obs[1], before)
        envs.restore([1, 1], [np.zeros((0, 1)), np.full((2, 1), 0.5, np.float32)])
        assert envs.faults == {}
    finally:
        envs.close()


def test_receive_needs_a_send() -> None:
    envs = VecEnv([Tally()], seed_of)
    with pytest.raises(AssertionError, match=r"without send"):
        envs.receive()
    step(envs, 0.0)
    with pytest.raises(AssertionError, match=r"without send"):
        envs.receive()


def test_no_processes_are_started_where_none_are_asked_for() -> None:
    envs = make_vecenv(Tally, 2, seed_of, 0)
    assert isinstance(envs, VecEnv)
    assert len(envs.envs) == 2


def test_processes_give_the_same_numbers() -> None:
    make = partial(Tally, 3, "terminated")
    here, there = make_vecenv(make, 3, seed_of, 0), make_vecenv(make, 3, seed_of, 2)
    try:
        assert len(pids()) == 2
        for pid in pids():
            os.kill(pid, signal.SIGINT)  # Ctrl-C reaches every process of a terminal; it is the parent's to answer
        assert (there.obs_dim, there.act_dim) == (here.obs_dim, here.act_dim)
        assert np.array_equal(there.obs, here.obs)
        kept = []
        for k in range(8):
            actions = 0.1 * k, -0.3, 0.7
            ours, theirs = step(here, *actions), step(there, *actions)
            kept.append((ours, theirs))
            assert np.array_equal(there.obs, here.obs)
            assert there.obs.dtype == here.obs.dtype
            assert there.episodes == here.episodes
        for ours, theirs in kept:  # only now: what was returned stays as it was
            for one, other in zip(ours, theirs, strict=True):
                assert np.array_equal(one, other)
                assert one.dtype == other.dtype
        with pytest.raises(AssertionError, match=r"without send"):
            there.receive()
    finally:
        there.close()
    assert not pids()


@pytest.mark.slow
def test_a_task_of_a_suite_in_a_process() -> None:
    make = partial(suites.make, suites.Task("cartpole-swingup", "dm_control", 1, suites.Score(0, 1000)))
    here, there = make_vecenv(make, 1, seed_of, 0), make_vecenv(make, 1, seed_of, 4)
    try:
        (pid,) = pids()  # not more of them than environments
        for k in range(1001):
            ours, theirs = step(here, np.sin(k)), step(there, np.sin(k))
            assert all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))
        assert np.array_equal(there.obs, here.obs)
        assert here.episodes == there.episodes == [2]
        if Path("/proc").is_dir():
            assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()  # seconds and memory, a process
    finally:
        there.close()


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ("step", "the environment raised ZeroDivisionError: the second episode"),
        ("text", "the environment raised ValueError: mesh ? is missing"),
        ("reset", "the environment raised OutOfStock: 3 screws missing"),
        ("reward", "the environment returned a reward that is not finite"),
        ("exit", "environment process 0 ended unexpectedly with exit status 3"),
    ],
)
def test_errors_in_a_process_are_reported(wrong: str, fault: str, capfd) -> None:
    envs = make_vecenv(partial(Tally, 2, "truncated", wrong), 1, seed_of, 1)
    try:
        for _ in range(4):
            step(envs, 0.0)
        assert envs.faults == {0: fault}
    finally:
        envs.close()
    if "raised" in fault:  # the traceback goes to the log
        assert f"{HERE.name}/test_vecenv.py" in capfd.readouterr().err
    assert not pids()


def test_a_constructor_that_fails_in_a_process_is_raised_here() -> None:
    with pytest.raises(LookupError, match="no such task") as raised:
        make_vecenv(partial(Tally, 2, "truncated", "constructor"), 1, seed_of, 1)
    assert isinstance(raised.value.__cause__, RemoteTraceback)
    assert f"{HERE.name}/test_vecenv.py" in str(raised.value.__cause__)
    assert not pids()


def test_a_process_that_is_killed() -> None:
    envs = make_vecenv(Tally, 2, seed_of, 2)
    try:
        step(envs, 0.0, 0.0)
        os.kill(sorted(pids())[1], signal.SIGKILL)
        before = envs.obs.copy()
        for _ in range(2):
            result = step(envs, 0.5, 0.5)
        ((index, fault),) = envs.faults.items()
        assert re.fullmatch(r"environment process \d was killed by SIGKILL \(out of memory\?\)", fault)
        assert np.array_equal(result.next_obs[index], before[index])
        assert not np.array_equal(result.next_obs[1 - index], before[1 - index])
    finally:
        envs.close()
    assert not pids()


def test_closing_does_not_wait_for_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "_PATIENCE", 0.1)
    envs = make_vecenv(partial(Tally, 1, "truncated", "hang"), 1, seed_of, 1)
    step(envs, 0.0)
    envs.send(np.zeros((1, 1), np.float32))
    envs.close()
    envs.close()  # twice does no harm
    assert not pids()
    with pytest.raises(OSError, match=r"[Bb]ad file"):
        step(envs, 0.0)


def test_a_function_that_cannot_be_pickled() -> None:
    with pytest.raises((AttributeError, pickle.PicklingError), match=r"lambda"):
        make_vecenv(lambda: Tally(), 1, seed_of, 1)
    assert not pids()


@pytest.mark.slow
@LINUX
def test_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = f"""
        import os, sys, time
        sys.path.insert(0, {str(HERE)!r})
        from functools import partial
        from pathlib import Path
        import numpy as np
        from flowbench.store import lock
        from flowbench.train.vecenv import make_vecenv
        from test_vecenv import Tally, pids, seed_of

        with lock.hold(Path({str(tmp_path)!r})) as held:
            os.set_inheritable(held.descriptor, True)  # as it is in a process that was given it
            envs = make_vecenv(partial(Tally, 1, "truncated", "hang"), 2, seed_of, 2)
            envs.send(np.zeros((2, 1), np.float32))
            envs.receive()
            envs.send(np.zeros((2, 1), np.float32))  # they hang in this one
            print(*pids(), flush=True)
            time.sleep(1000)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    try:
        found = [int(word) for word in parent.stdout.readline().split()]
        assert len(found) == 2
        for pid in found:
            assert is_alive(pid)
            open_files = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
            assert not [name for name in open_files if name.startswith(str(tmp_path))]  # its parent's lock
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    assert until(lambda: not any(is_alive(pid) for pid in found))
