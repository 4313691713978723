"""The training loop on an environment that can be computed by hand."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from fakes import Toy, ToyConfig, Walk

from flowbench.common.rng import stream_seed
from flowbench.learners.placement import Placement
from flowbench.train.build import build_trainer, replay_device
from flowbench.train.events import Row, SeedFailed, Tick

CLOCK = ("seconds", "steps_per_second")


class Run:
    """A trainer, its environments, and the events it yielded."""

    def __init__(
        self,
        algorithm=Toy,
        seeds=(0,),
        *,
        env=Walk,
        steps=30,
        every=10,
        episodes=2,
        stack=False,
        success=None,
        **config,
    ):
        self.envs: list[Walk] = []

        def make():
            self.envs.append(env())
            return self.envs[-1]

        self.trainer = build_trainer(
            make, algorithm, ToyConfig(**config), seeds, steps=steps, evaluate_every=every,
            evaluation_episodes=episodes, placement=Placement(torch.device("cpu"), stack=stack), success=success,
        )  # fmt: skip
        self.happened: list[Row | Tick] = []

    def finish(self) -> Run:
        for happened in self.trainer.run():
            self.happened.append(happened)
        return self

    def rows(self, table: str, seed: int = 0) -> list[dict[str, float]]:
        """The rows of a seed, less the wall-clock."""
        found = [row for row in self.happened if isinstance(row, Row) and (row.table, row.seed) == (table, seed)]
        return [{key: value for key, value in row.values.items() if key not in CLOCK} for row in found]

    @property
    def ticks(self) -> list[Tick]:
        return [tick for tick in self.happened if isinstance(tick, Tick)]


class Spy(Toy):
    """Remembers the batches it was given."""

    batches: list = []  # noqa: RUF012
    rehearsals = 1  # an update of the rehearsal comes first

    def update(self, batch, learner, phase):
        type(self).batches.append(batch)
        super().update(batch, learner, phase)


@pytest.fixture
def spy():
    Spy.batches = []
    return Spy


def test_the_first_steps_are_uniform_and_then_the_policy_acts() -> None:
    run = Run(random_steps=12, steps=20).finish()
    actions = run.envs[0].actions
    generator = np.random.default_rng(stream_seed(0, "random-actions"))
    np.testing.assert_array_equal(
        actions[:12], [float(np.float32(generator.uniform(-1.0, 1.0, 1)[0])) for _ in range(12)]
    )
    rest = np.array(actions[12:])
    uniform = [float(np.float32(generator.uniform(-1.0, 1.0, 1)[0])) for _ in range(8)]
    assert len(rest) == 8
    assert not np.isin(rest, uniform).any()


def test_the_policy_sees_the_observation_its_action_is_for() -> None:
    class Echo(Toy):
        def act(self, obs, explore):
            return obs[:, 1:] / 10  # steps taken in this episode

    run = Run(Echo, random_steps=0, steps=12).finish()
    np.testing.assert_allclose(run.envs[0].actions[:12], [0, 0.1, 0.2, 0.3, 0.4] * 2 + [0, 0.1], atol=1e-6)


@pytest.mark.parametrize(
    ("random_steps", "per_step", "expected"),
    [(4, 1, 16), (4, 3, 48), (20, 1, 0), (25, 2, 0), (0, 1, 19)],  # without random steps the first has no data yet
)
def test_one_update_for_each_step_after_the_random_ones(random_steps: int, per_step: int, expected: int) -> None:
    run = Run(random_steps=random_steps, updates_per_step=per_step, steps=20).finish()
    assert run.rows("train")[-1]["updates"] == expected


def test_an_update_knows_how_far_training_is(spy) -> None:
    Run(spy, random_steps=15, steps=20).finish()
    progress = [batch.progress.item() for batch in spy.batches[spy.rehearsals :]]
    np.testing.assert_allclose(progress, [0.75, 0.8, 0.85, 0.9, 0.95])


def test_an_update_needs_nothing_of_the_step_in_flight(spy) -> None:
    run = Run(spy, random_steps=1, steps=2, batch_size=16).finish()
    (batch,) = spy.batches[spy.rehearsals :]
    assert set(batch.obs[:, 1].tolist()) == {0.0}  # the first transition alone
    assert batch.reward[0].item() == pytest.approx(run.envs[0].actions[0])


def test_train_rows_are_the_episodes() -> None:
    run = Run(steps=23, random_steps=6).finish()
    rows = run.rows("train")
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    assert [row["episode"] for row in rows] == [1, 2, 3, 4]
    assert [row["length"] for row in rows] == [5, 5, 5, 5]
    assert [row["updates"] for row in rows] == [0, 4, 9, 14]
    actions = run.envs[0].actions
    np.testing.assert_allclose([row["return"] for row in rows], [sum(actions[k : k + 5]) for k in (0, 5, 10, 15)],
                               rtol=1e-5)  # fmt: skip
    assert "critic/loss" not in rows[0]
    assert {"critic/loss", "critic/q", "actor/loss"} < rows[1].keys()


def test_rows_have_the_columns_that_were_announced() -> None:
    run = Run(steps=23).finish()
    for row in run.happened:
        if isinstance(row, Row):
            assert row.values.keys() <= set(run.trainer.columns(row.table))
    assert run.trainer.columns("evals") == ["step", "mean", "std", "return_0", "return_1", "seconds"]
    assert run.trainer.columns("train")[-3:] == ["critic/loss", "critic/q", "actor/loss"]


def test_an_evaluation_has_a_success_rate() -> None:
    returns = Run(steps=20, every=10, episodes=3).finish().rows("evals")[0]
    bar = sorted(returns[f"return_{k}"] for k in range(3))[1]
    run = Run(steps=20, every=10, episodes=3, success=bar).finish()
    assert run.trainer.columns("evals")[:4] == ["step", "mean", "std", "success"]
    assert run.rows("evals")[0]["success"] == pytest.approx(2 / 3)
    assert run.rows("evals")[0]["mean"] == returns["mean"]
    assert "success" not in returns


def test_evaluations_come_every_so_often_and_at_the_end() -> None:
    run = Run(steps=25, every=10, episodes=3).finish()
    rows = run.rows("evals")
    assert [row["step"] for row in rows] == [10, 20, 25]
    for row in rows:
        returns = [row[f"return_{k}"] for k in range(3)]
        assert len(set(returns)) == 3
        assert row["mean"] == pytest.approx(np.mean(returns))
        assert row["std"] == pytest.approx(np.std(returns))
    assert [row["step"] for row in Run(steps=20, every=10).finish().rows("evals")] == [10, 20]


def test_evaluation_has_environments_of_its_own_and_no_exploration() -> None:
    run = Run(steps=20, every=10, episodes=2).finish()
    training, *evaluating = run.envs
    assert len(training.actions) == 20
    assert [len(env.actions) for env in evaluating] == [10, 10]  # two evaluations of an episode of five
    seeds = [env.seeds for env in evaluating]
    assert not {seed for found in seeds for seed in found} & set(training.seeds)
    assert seeds[0] != seeds[1]
    # Without exploration the action is the policy's mean of the observation, so a second look gives the same.
    again = Run(steps=20, every=10, episodes=2).finish()
    assert [env.actions for env in again.envs[1:]] == [env.actions for env in evaluating]


@pytest.mark.parametrize(("every", "episodes"), [(1, 1), (3, 5), (1000, 2)])
def test_how_evaluation_is_done_changes_no_training_row(every: int, episodes: int) -> None:
    usual = Run(steps=60, every=10, episodes=2).finish()
    other = Run(steps=60, every=every, episodes=episodes).finish()
    assert other.rows("train") == usual.rows("train")
    assert other.envs[0].actions == usual.envs[0].actions
    assert len(usual.rows("train")) == 12


def test_an_evaluation_depends_on_the_step_it_is_made_at_alone() -> None:
    often, seldom = Run(steps=60, every=10).finish(), Run(steps=60, every=30).finish()
    assert [row for row in often.rows("evals") if row["step"] in (30, 60)] == seldom.rows("evals")


def test_a_seed_decides_the_rows_and_other_random_draws_do_not() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = Run(steps=60).finish()
    torch.manual_seed(2)
    np.random.seed(2)
    run = Run(steps=60)
    for happened in run.trainer.run():
        torch.rand(3)
        np.random.rand(3)
        run.happened.append(happened)
    other = Run(steps=60, seeds=(1,)).finish()
    for table in ("train", "evals"):
        assert run.rows(table) == first.rows(table)
        assert run.rows(table) != other.rows(table, 1)


class Uneven(Walk):
    """Its episodes differ in length."""

    def reset(self, *, seed=None, options=None):
        self.length = 3 + seed % 4
        return super().reset(seed=seed)


@pytest.mark.parametrize("env", [Walk, Uneven])
def test_seeds_together_give_what_each_gives_alone(env) -> None:
    together = Run(seeds=(4, 0, 7), env=env, steps=60).finish()
    for seed in (4, 0, 7):
        alone = Run(seeds=(seed,), env=env, steps=60).finish()
        for table in ("train", "evals"):
            assert together.rows(table, seed) == alone.rows(table, seed)
            assert alone.rows(table, seed)


@pytest.mark.parametrize(("ends", "discount"), [("truncated", 1.0), ("terminated", 0.0)])
def test_batches_contain_the_transitions_of_the_environment(spy, ends: str, discount: float) -> None:
    run = Run(spy, env=lambda: Walk(5, ends), steps=40, random_steps=12, batch_size=64).finish()
    actions = np.float32(run.envs[0].actions)
    seen = set()
    for batch in spy.batches[spy.rehearsals :]:
        for obs, action, reward, next_obs, going_on in zip(*(part.numpy() for part in batch[:5]), strict=True):
            if abs(action[0]) == 1.0:  # clipped, which others may be too
                continue
            (n,) = np.flatnonzero(actions == action[0])
            assert reward == action[0]
            assert obs[1] == n % 5
            assert next_obs[1] == n % 5 + 1  # the last observation of an episode, not the next one's first
            assert going_on == (discount if n % 5 == 4 else 1.0)
            seen.add(int(n))
    assert seen >= {n for n in range(35) if abs(actions[n]) < 1.0}
    assert len(seen) > 20


def test_the_last_step_has_a_tick() -> None:
    ticks = Run(steps=20).finish().ticks
    assert ticks[-1].step == 20
    assert [tick.step for tick in ticks] == sorted({tick.step for tick in ticks})
    assert all(tick.steps_per_second > 0 for tick in ticks)


def test_time_is_measured_by_activity() -> None:
    run = Run(steps=20).finish()
    split = run.trainer.clock.split()
    assert set(split) == {"environment", "act", "replay", "update", "evaluation", "other", "total"}
    assert all(seconds > 0 for seconds in split.values())
    assert sum(split.values()) == pytest.approx(2 * split["total"])


def test_trained_parameters_are_counted() -> None:
    class WithTarget(Toy):
        def __init__(self, obs_dim, act_dim, config):
            super().__init__(obs_dim, act_dim, config)
            self.target = torch.nn.Linear(50, 50).requires_grad_(False)

    assert Run(WithTarget, seeds=(0, 1)).trainer.parameter_count == (2 + 1) + (3 + 1)


def test_all_environments_are_closed() -> None:
    run = Run(seeds=(0, 1)).finish()
    run.trainer.close()
    assert len(run.envs) == 4
    assert all(env.closed for env in run.envs)


# Errors


class Diverging(Toy):
    """Its critic's loss is NaN from the 11th update on; the policy does not use the critic."""

    def __init__(self, obs_dim, act_dim, config):
        super().__init__(obs_dim, act_dim, config)
        self.register_buffer("done", torch.zeros(()))

    def critic_loss(self, batch):
        loss, diagnostics = super().critic_loss(batch)
        self.done += 1
        return loss * (math.nan if self.done > 10 else 1.0), diagnostics

    def actor_loss(self, batch):
        return self.actor(batch.obs).square().mean(), {}


def test_a_loss_that_is_not_finite_ends_the_run_and_is_named_with_the_step() -> None:
    run = Run(Diverging, steps=60, every=1000, random_steps=4)
    # Updates begin with step 5, so the 11th is in the episode that ends with step 15.
    with pytest.raises(FloatingPointError, match=r"^critic/loss became nan by step 15$"):
        run.finish()
    assert [row["step"] for row in run.rows("train")] == [5, 10]


def test_a_loss_that_is_not_finite_is_found_within_a_long_episode() -> None:
    with pytest.raises(FloatingPointError, match=r"^critic/loss became nan"):
        Run(Diverging, env=lambda: Walk(300), steps=60, every=1000, episodes=1).finish()


def test_an_action_that_is_not_finite_ends_the_run() -> None:
    class Lost(Toy):
        def act(self, obs, explore):
            return obs[:, :1].clamp(-1, 1) * (math.nan if explore and obs[0, 1] == 3 else 1.0)

    with pytest.raises(FloatingPointError, match="action that is not finite at step 9"):
        Run(Lost, random_steps=5).finish()


def test_an_action_that_is_not_finite_in_an_evaluation_ends_the_run_as_diverged() -> None:
    class Lost(Toy):
        def act(self, obs, explore):
            return obs[:, :1].clamp(-1, 1) * (1.0 if explore or obs[0, 1] < 3 else math.nan)

    with pytest.raises(FloatingPointError, match=r"action that is not finite, in the evaluation of step 10$"):
        Run(Lost, random_steps=5).finish()


def broken(**methods) -> type[Toy]:
    return type("Broken", (Toy,), methods)


def fails(self, *args):
    raise RuntimeError("a mistake in the algorithm")


def second_phase_fails(self, batch, learner, phase):
    if phase == 1:
        fails(self)


@pytest.mark.parametrize(
    ("methods", "error"),
    [
        ({"update": fails}, RuntimeError),
        ({"critic_loss": fails}, RuntimeError),
        ({"act": fails}, RuntimeError),
        ({"act": lambda self, obs, explore: self.actor(obs)[:, 0]}, ValueError),
        ({"update": second_phase_fails, "period": 2}, RuntimeError),
        ({"update": lambda self, batch, learner, phase: learner.minimise("actr", self.actor_loss, batch)}, ValueError),
        ({"optimisers": lambda self: {"actr": None}}, TypeError),
    ],
)
def test_a_mistake_in_an_algorithm_shows_before_a_step_is_taken(methods, error: type[Exception]) -> None:
    made: list[Walk] = []

    def make() -> Walk:
        made.append(Walk())
        return made[-1]

    with pytest.raises(error):
        build_trainer(make, broken(**methods), ToyConfig(random_steps=1000), [0], steps=5000, evaluate_every=10,
                evaluation_episodes=1, placement=Placement(torch.device("cpu")))  # fmt: skip
    assert not any(env.actions for env in made)


def test_a_rehearsal_changes_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from flowbench.learners.learner import EagerLearner

    usual = Run(steps=30).finish()
    logged = usual.trainer._learner.logged
    monkeypatch.setattr(EagerLearner, "rehearse", lambda self: logged)
    assert Run(steps=30).finish().rows("train") == usual.rows("train")


# Seeds as one computation, and other processes


def test_stacked_seeds_are_trained_with_rows_of_their_own() -> None:
    first, second = (Run(seeds=(4, 0, 7), steps=60, stack=True).finish() for _ in range(2))
    rows = {seed: first.rows("train", seed) for seed in (4, 0, 7)}
    assert first.trainer.kind == "stacked"
    for seed in rows:
        assert [row["step"] for row in rows[seed]] == list(range(5, 61, 5))
        assert [row["step"] for row in first.rows("evals", seed)] == [10, 20, 30, 40, 50, 60]
        for table in ("train", "evals"):
            assert first.rows(table, seed) == second.rows(table, seed)
        alone = Run(seeds=(seed,), steps=60).finish().rows("train", seed)
        assert rows[seed][0]["return"] != alone[1]["return"]
        assert rows[seed][1].keys() == alone[1].keys()
        # The same environment, initial weights and random steps; another stream of noise.
        assert rows[seed][1]["critic/loss"] == pytest.approx(alone[1]["critic/loss"], rel=0.5)
    assert rows[4] != rows[0]


class NanReward(Walk):
    """Rewards that a float cannot square, in one seed's training alone."""

    def reset(self, *, seed=None, options=None):
        self.bad = seed in {stream_seed(1, "training", episode) for episode in (4, 5, 6, 7, 8, 9)}
        return super().reset(seed=seed)

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, 1e30 if self.bad else reward, *rest


@pytest.mark.parametrize("stack", [False, True])
def test_a_seed_that_diverges_fails_and_the_others_continue(stack: bool) -> None:
    run = Run(seeds=(0, 1, 2), env=NanReward, steps=60, stack=stack).finish()
    (failed,) = [each for each in run.happened if isinstance(each, SeedFailed)]
    assert failed.seed == 1
    assert re.fullmatch(r"critic/loss became (inf|nan) by step (25|30)", str(failed.error))
    without = Run(seeds=(0, 1, 2), steps=60, stack=stack).finish()
    for seed in (0, 2):
        for table in ("train", "evals"):
            assert run.rows(table, seed) == without.rows(table, seed)
    assert max(row["step"] for row in run.rows("train", 1)) <= 25
    assert max(row["step"] for row in run.rows("evals", 1)) <= 20


def test_replay_is_of_the_size_that_was_asked_for() -> None:
    run = Run(steps=30, replay_size=8).finish()
    assert run.trainer._replay.capacity == 8
    assert run.trainer._replay.added == 30
    assert dataclasses.asdict(run.trainer._config)["replay_size"] == 8


@pytest.mark.parametrize(
    ("free", "sharers", "needed", "where"),
    [(80, 1, 55, "cuda"), (80, 1, 57, "cpu"), (80, 2, 27, "cuda"), (80, 2, 29, "cpu"), (20, 2, 15, "cpu")],
)
def test_a_replay_lies_where_its_share_of_the_device_holds_it(monkeypatch, free, sharers, needed, where) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80))
    assert replay_device(Placement(torch.device("cuda"), sharers=sharers), needed).type == where
    assert replay_device(Placement(torch.device("cpu"), sharers=sharers), needed).type == "cpu"
