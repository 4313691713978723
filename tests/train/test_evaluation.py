"""Evaluation in this process and in others: the same numbers, in order, and errors when a process dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from multiprocessing import active_children

import numpy as np
import pytest
import torch
from fakes import Toy, ToyConfig, Walk

from flowbench.common.child_process import RemoteTraceback
from flowbench.common.rng import TorchStream, stream_seed
from flowbench.train.evaluation import EvaluationFault, Evaluator, Failed
from flowbench.train.vecenv import EnvironmentFault

CPU = torch.device("cpu")


class Noisy(Toy):
    """Draws its noise also when it is evaluated, so that it shows which random stream it draws from."""

    def act(self, obs, explore):
        return super().act(obs, explore=True)


class Uneven(Walk):
    """An episode's length depends on its seed."""

    def reset(self, *, seed=None, options=None):
        self.length = 3 + (seed or 0) % 5
        return super().reset(seed=seed)


class Broken(Walk):
    def step(self, action):
        raise ZeroDivisionError("in the middle of an episode")


def build(obs_dim: int, act_dim: int) -> Noisy:
    return Noisy(obs_dim, act_dim, ToyConfig())


def weights(seed: int) -> dict[str, torch.Tensor]:
    with TorchStream(seed, CPU):
        return build(2, 1).state_dict()


def by_hand(seed: int, step: int, of: dict[str, torch.Tensor], episodes: int) -> list[float]:
    """Returns of Uneven: K observations a time for the policy, also those of episodes that are over."""
    agent = build(2, 1)
    agent.load_state_dict(of)
    envs = [Uneven() for _ in range(episodes)]
    obs = [env.reset(seed=stream_seed(seed, "evaluation", step, k))[0] for k, env in enumerate(envs)]
    returns = [0.0] * episodes
    over = [False] * episodes
    torch.manual_seed(stream_seed(seed, "evaluation-policy", step))
    with torch.no_grad():
        while not all(over):
            actions = agent.act(torch.tensor(np.stack(obs)), explore=False).numpy()
            for k in range(episodes):
                if not over[k]:
                    obs[k], reward, _, over[k], _ = envs[k].step(actions[k])
                    returns[k] += reward
    return returns


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def results(evaluator: Evaluator) -> list[tuple[int, int, list[float], float]]:
    return [(seed, step, returns.tolist(), seconds) for seed, step, returns, seconds in evaluator.collect(wait=True)]


def test_returns_are_those_worked_out_by_hand() -> None:
    evaluator = Evaluator(Uneven, build, 3, 0)
    evaluator.submit(7, 100, weights(1), 2.5)
    ((seed, step, returns, seconds),) = evaluator.collect()
    assert (seed, step, seconds) == (7, 100, 2.5)
    assert returns.tolist() == by_hand(7, 100, weights(1), 3)
    assert evaluator.collect() == []


def test_they_depend_on_weights_seed_and_step_alone() -> None:
    def of(*requests: tuple[int, int, int]) -> list[list[float]]:
        evaluator = Evaluator(Uneven, build, 2, 0)
        for seed, step, made in requests:
            evaluator.submit(seed, step, weights(made), 0.0)
        return [returns for _, _, returns, _ in results(evaluator)]

    one, two, three = (0, 10, 1), (0, 20, 1), (1, 10, 2)
    first = of(one, two, three)
    assert first == of(three, one, two)[1:] + of(three)
    assert len({tuple(returns) for returns in first}) == 3


def test_nothing_outside_depends_on_them() -> None:
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    evaluator = Evaluator(Uneven, build, 2, 0)
    evaluator.submit(0, 1, weights(1), 0.0)
    assert torch.equal(torch.randn(4), expected)


def test_environments_are_made_when_first_needed_and_closed_in_the_end() -> None:
    made: list[Walk] = []

    def make() -> Walk:
        made.append(Walk())
        return made[-1]

    evaluator = Evaluator(make, build, 2, 0)
    assert evaluator.episodes == 2
    assert not made
    for step in (1, 2):
        evaluator.submit(0, step, weights(1), 0.0)
    assert len(made) == 2
    evaluator.close()
    assert all(env.closed for env in made)


def test_an_environment_that_has_numpy_raise_has_not_diverged() -> None:
    class Strict(Walk):
        def step(self, action):
            with np.errstate(all="raise"):
                return super().step(np.float32(3e38) * np.float32([10.0]))

    evaluator = Evaluator(Strict, build, 1, 0)
    evaluator.submit(0, 1, weights(1), 0.0)
    (failed,) = evaluator.collect()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, EnvironmentFault)
    assert "the environment raised FloatingPointError: overflow" in str(failed.error)


def test_a_failure_here() -> None:
    evaluator = Evaluator(Broken, build, 1, 0)
    evaluator.submit(0, 1, weights(1), 0.0)
    (failed,) = evaluator.collect()
    assert isinstance(failed, Failed)
    assert (failed.seed, failed.step) == (0, 1)
    assert isinstance(failed.error, ZeroDivisionError)
    assert "in the middle" in str(failed.error)


@pytest.mark.parametrize("what", ["observation", "reward", "action"])
def test_values_that_are_not_finite_are_a_failure(what: str) -> None:
    class NoNumbers(Walk):
        def step(self, action):
            obs, reward, *rest = super().step(action)
            return obs * (np.nan if what == "observation" else 1), np.nan if what == "reward" else reward, *rest

    evaluator = Evaluator(NoNumbers, build, 2, 0)
    evaluator.submit(0, 1, {name: each * (np.nan if what == "action" else 1) for name, each in weights(1).items()}, 0.0)
    (failed,) = evaluator.collect()
    assert isinstance(failed, Failed)
    assert f"{what} that is not finite" in str(failed.error)


@pytest.mark.slow
def test_processes_give_the_same_numbers() -> None:
    here, there = Evaluator(Uneven, build, 3, 0), Evaluator(Uneven, build, 3, 2)
    try:
        for step in (10, 20):
            for seed in (0, 1, 2):
                snapshot = weights(seed + step)
                here.submit(seed, step, snapshot, 0.5 * seed)
                there.submit(seed, step, snapshot, 0.5 * seed)
                for tensor in snapshot.values():
                    tensor.zero_()  # what was submitted is what is evaluated
        assert not [tensor for tensor in snapshot.values() if tensor.is_shared()]
        assert results(there) == results(here)
        assert len(active_children()) == 2
        there.submit(0, 30, {}, 0.0)
        (failed,) = there.collect(wait=True)
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, RuntimeError)
        assert "Missing key" in str(failed.error)
        assert isinstance(failed.error.__cause__, RemoteTraceback)
        for seed in (0, 1, 2):  # in the processes that are left, and in another in the place of the one that failed
            here.submit(seed, 40, weights(seed), 0.0)
            there.submit(seed, 40, weights(seed), 0.0)
        assert results(there) == results(here)
    finally:
        there.close()
    assert not active_children()


@pytest.mark.slow
def test_a_process_killed_while_weights_are_on_their_way() -> None:
    evaluator = Evaluator(Walk, build, 1, 1)
    try:
        large = {**weights(1), "ballast": torch.zeros(2**22)}  # more than a pipe holds
        evaluator.submit(0, 1, large, 0.0)
        evaluator.submit(0, 2, large, 0.0)
        (child,) = active_children()
        os.kill(child.pid, signal.SIGKILL)
        evaluator.submit(0, 3, large, 0.0)
        failed = evaluator.collect(wait=True)
        assert isinstance(failed[0].error, EvaluationFault)
        assert str(failed[0].error) == "evaluation process 0 was killed by SIGKILL (out of memory?)"
        evaluator.submit(0, 4, weights(1), 0.0)
        (done,) = evaluator.collect(wait=True)
        assert done.returns.shape == (1,)
    finally:
        evaluator.close()


@pytest.mark.slow
def test_closing_does_not_wait() -> None:
    evaluator = Evaluator(partial(Walk, 10**9), build, 1, 1)
    for seed in range(3):
        evaluator.submit(seed, 1, weights(1), 0.0)
    assert evaluator.collect() == []
    evaluator.close()
    assert not active_children()


class Slow:
    """A replacement for the processes: the test decides when an evaluation is finished."""

    def __init__(self) -> None:
        self.futures: dict[tuple[int, int], Future] = {}

    def submit(self, seed, step, weights):
        return self.futures.setdefault((seed, step), Future())

    def finish(self, seed, step):
        self.futures[seed, step].set_result(np.zeros(1))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> tuple[Evaluator, Slow]:
    evaluator, pool = Evaluator(Walk, build, 1, 1), Slow()
    monkeypatch.setattr(evaluator, "_pool", pool)
    return evaluator, pool


def collected(evaluator: Evaluator) -> list[tuple[int, int]]:
    return [(seed, step) for seed, step, _, _ in evaluator.collect()]


def test_each_seed_in_the_order_of_its_steps(slow: tuple[Evaluator, Slow]) -> None:
    evaluator, pool = slow
    for step in (1, 2):
        for seed in (0, 1):
            evaluator.submit(seed, step, {}, 0.0)
    pool.finish(0, 2)
    pool.finish(1, 1)
    assert collected(evaluator) == [(1, 1)]  # seed 0's first one is not finished
    pool.finish(0, 1)
    assert collected(evaluator) == [(0, 1), (0, 2)]
    pool.finish(1, 2)
    assert collected(evaluator) == [(1, 2)]


def test_no_more_than_two_of_a_seed_are_ahead(slow: tuple[Evaluator, Slow]) -> None:
    evaluator, pool = slow
    for seed, step in ((0, 1), (0, 2), (1, 1)):
        evaluator.submit(seed, step, {}, 0.0)
    third = threading.Thread(target=evaluator.submit, args=(0, 3, {}, 0.0))
    third.start()
    time.sleep(0.1)
    assert (0, 3) not in pool.futures
    pool.finish(0, 1)
    third.join(10)
    assert (0, 3) in pool.futures


def test_a_failure_is_its_own_seeds_alone(slow: tuple[Evaluator, Slow]) -> None:
    evaluator, pool = slow
    evaluator.submit(0, 1, {}, 0.0)
    pool.futures[0, 1].set_exception(EvaluationFault("the process died"))
    evaluator.submit(1, 1, {}, 0.0)
    (failed,) = evaluator.collect()
    assert (failed.seed, str(failed.error)) == (0, "the process died")
    assert not evaluator.idle(0.0)
    pool.finish(1, 1)
    assert evaluator.idle(0.0)
    assert collected(evaluator) == [(1, 1)]
