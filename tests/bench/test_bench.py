"""`flowbench bench`: what is counted, worked out by hand; what is timed, only that it is there."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fakes import TINY, ToyConfig, write_algorithm

import algos
from flowbench.bench import limits, loop, peers, show, timing, updates, work
from flowbench.bench.setting import Setting
from flowbench.train.replay import Replay

ASKED = {"algo", "stack", "device", "update_ms", "act_ms", "peer", "peer_update_ms", "ratio", "floor_ms", "of_floor"}
CPU = Setting(torch.device("cpu"), "float32", 1)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits and replays of a size that takes no time."""
    monkeypatch.setattr(limits, "SQUARE", {"cpu": 16})
    monkeypatch.setattr(limits, "LARGE", {"cpu": 1024})
    monkeypatch.setattr(updates, "TRANSITIONS", 50)


TINY_UPDATE = ["--set", "hidden=8", "--obs", 3, "--act", 1, "--batch", 4, "--seconds", "0.05", "--device", "cpu"]


# What an update needs


def mlp_flop(batch: int, *sizes: int) -> int:
    """A forward pass through layers of these widths; its weights' gradients take as many."""
    return sum(2 * batch * a * b for a, b in pairwise(sizes))


def test_the_operations_of_td3_by_hand() -> None:
    obs, act, hidden, batch = 5, 2, 8, 16
    entry = algos.find("td3").load()
    agent = entry(obs, act, entry.Config(hidden=hidden, policy_delay=2))
    actor, critic = (obs, hidden, hidden, act), (obs + act, hidden, hidden, 1)
    forward_actor, forward_critic = mlp_flop(batch, *actor), mlp_flop(batch, *critic)
    # Target action, two target values, two values; gradients of both critics' weights and of their hidden layers.
    of_critic = forward_actor + 2 * forward_critic + 2 * (2 * forward_critic + mlp_flop(batch, *critic[1:]))
    # The action and its value; the gradient down to the action, then the actor's weights and hidden layers.
    of_actor = forward_actor + 2 * forward_critic + forward_actor + mlp_flop(batch, *actor[1:])
    counted = work.count(agent, batch)
    assert counted.flop == of_critic + of_actor / 2

    weights = {name: sum(p.numel() for p in getattr(agent, name).parameters()) for name in ("actor", "critic")}
    of_batch = batch * (2 * obs + act + 2) + 1
    moved = 8 * weights["critic"] + (8 * weights["actor"] + 3 * (weights["actor"] + weights["critic"])) / 2
    assert counted.bytes == 4 * (moved + 2 * of_batch)
    assert counted.resident == 4 * (5 * (weights["actor"] + weights["critic"]) + of_batch)


def test_the_product_with_most_of_the_operations_is_named() -> None:
    entry = algos.find("sac").load()
    assert str(work.count(entry(3, 1, entry.Config(hidden=32)), 16).product) == "16x32x32"
    assert work.Product(2, 3, 4).flop == 48


@pytest.mark.parametrize("name", algos.names())
def test_counting_leaves_an_agent_as_it_was(name: str) -> None:
    algorithm = algos.find(name).load()
    agent = algorithm(3, 1, algorithm.Config(hidden=8))
    before = {key: value.clone() for key, value in agent.state_dict().items()}
    counted = work.count(agent, 4)
    assert counted.flop > 0
    assert counted.bytes > 0
    assert all(torch.equal(before[key], value) for key, value in agent.state_dict().items())


def test_the_floor_is_the_longer_of_computing_and_moving() -> None:
    floor = limits.Floor(flop=6e9, bytes=1e9, flops=2e9, bandwidth=1e9)
    assert (floor.seconds, floor.bound) == (3.0, "compute")
    floor = limits.Floor(flop=6e9, bytes=4e9, flops=2e9, bandwidth=1e9)
    assert (floor.seconds, floor.bound) == (4.0, "memory")


def test_several_seeds_need_several_times_as_much(small) -> None:
    one = work.Work(100.0, 1000.0, work.Product(4, 8, 8), 4000)
    measured = limits.Limits(CPU, 0.01)
    measured.need(one, 3)
    timing.in_rounds(measured.timed, rounds=1)
    floor = measured.floor(one, 3)
    assert (floor.flop, floor.bytes) == (300.0, 3000.0)
    assert floor.seconds > 0


# Timing


def test_every_round_has_everything_in_turn() -> None:
    calls: list[str] = []
    timed = [timing.Timed(lambda name=name: calls.append(name), torch.device("cpu"), 2, 1e-6) for name in "ab"]
    timing.in_rounds(timed, rounds=3)
    squeezed = [name for name, before in zip(calls, [None, *calls], strict=False) if name != before]
    assert squeezed[:4] == ["a", "b", "a", "b"]
    assert all(1 <= len(each.rounds) <= 3 and each.seconds > 0 for each in timed)


def test_a_number_is_the_median_of_its_rounds_a_unit() -> None:
    timed = timing.Timed(lambda: None, torch.device("cpu"))
    timed.rounds = [1.0, 9.0, 2.0]
    assert timed.seconds == 2.0


def test_a_replay_is_filled_for_every_seed() -> None:
    replay = Replay([0, 1], 3, 1, ToyConfig(), 20, torch.device("cpu"))
    updates.fill(replay, 2, 3, 1)
    assert replay.size == replay.capacity == 20
    batch = replay.sample(0.5)
    assert batch.obs.shape == (2, 8, 3)
    assert float(batch.action.abs().max()) <= 1.0


# The rows


def test_json_has_what_was_measured_and_on_what(flowbench, small) -> None:
    status, out, err = flowbench("bench", "--algo", "td3,sac", "--stack", "1,2", *TINY_UPDATE, "--format", "json")
    assert (status, err) == (0, "")
    told = json.loads(out)
    assert {"machine", "versions", "date", "limits"} <= set(told["header"])
    assert {"square_gflops", "bandwidth_gbs"} <= set(told["header"]["limits"])
    assert [(row["algo"], row["stack"], row["kind"]) for row in told["rows"]] == [
        ("td3[hidden=8]", 1, "separate"), ("td3[hidden=8]", 2, "stacked"),
        ("sac[hidden=8]", 1, "separate"), ("sac[hidden=8]", 2, "stacked"),
    ]  # fmt: skip
    for row in told["rows"]:
        assert set(row) >= ASKED
        assert (row["obs"], row["act"], row["batch"], row["hidden"], row["threads"]) == (3, 1, 4, 8, 1)
        assert (row["peer"], row["peer_update_ms"], row["ratio"]) == (None, None, None)
        assert row["update_ms"] > 0
        assert row["act_ms"] > 0
        assert row["of_floor"] == pytest.approx(row["floor_ms"] / row["update_ms"])
        assert row["floor_ms"] == pytest.approx(
            max(row["gflop"] / row["product_gflops"], row["mbytes"] / 1e3 / row["bandwidth_gbs"]) * 1e3
        )
        assert row["seed_updates_per_second"] == pytest.approx(row["stack"] * row["updates_per_second"])
    one, two = told["rows"][:2]
    assert two["gflop"] == 2 * one["gflop"]


def test_a_ratio_is_of_as_many_seeds_of_the_peer() -> None:
    timed = {name: SimpleNamespace(seconds=value) for name, value in {"update": 0.2, "act": 0.1, "peer": 0.3}.items()}
    (variant,) = [SimpleNamespace(label="sac", config=ToyConfig(), entry=SimpleNamespace(name="sac"))]
    needed = work.Work(1e9, 1e6, work.Product(1, 1, 1), 1)
    subject = updates._Subject(variant, 4, "stacked", 10, needed, **timed)
    rates = SimpleNamespace(floor=lambda work, seeds: limits.Floor(seeds * 1e9, seeds * 1e6, 1e11, 1e10))
    row = updates._row(subject, rates, CPU, 3, 1)
    assert row["peer"] == "sb3-sac"
    assert row["peer_update_ms"] == pytest.approx(1200)
    assert row["ratio"] == pytest.approx(6.0)
    assert row["floor_ms"] == pytest.approx(40)
    assert row["of_floor"] == pytest.approx(0.2)


@pytest.mark.parametrize("format", ["table", "markdown"])
def test_people_can_read_it(flowbench, small, format: str) -> None:
    status, out, err = flowbench("bench", "--algo", "td3", "--stack", "1", *TINY_UPDATE, "--format", format)
    assert (status, err) == (0, "")
    assert "td3" in out
    assert "of floor" in " ".join(out.split()) or format == "table"
    assert "GFLOP/s" in out
    assert "peer" not in out
    if format == "markdown":
        assert "| --- | ---: |" in out


def test_a_peer_stands_beside_ours(flowbench, small) -> None:
    pytest.importorskip("stable_baselines3")
    status, out, err = flowbench(
        "bench", "--peers", "--algo", "sac,td3,flowrl", "--stack", "1", *TINY_UPDATE, "--format", "json"
    )
    assert (status, err) == (0, "")
    told = json.loads(out)
    assert told["header"]["versions"]["stable_baselines3"]
    assert [row["peer"] for row in told["rows"]] == ["sb3-sac", "sb3-td3", None]
    for row in told["rows"][:2]:
        assert row["ratio"] == pytest.approx(row["peer_update_ms"] / row["update_ms"])


def test_the_peer_has_our_networks_and_a_full_replay() -> None:
    pytest.importorskip("stable_baselines3")
    for name in ("sac", "td3"):
        config = algos.find(name).load().Config(hidden=8, batch_size=4, lr=1e-3)
        variant = SimpleNamespace(entry=algos.find(name), config=config)
        step, model = peers.build(variant, 3, 1, 20, CPU)
        ours = algos.find(name).load()(3, 1, config)
        assert sum(p.numel() for p in model.critic.parameters()) == sum(p.numel() for p in ours.critic.parameters())
        assert sum(p.numel() for p in model.actor.parameters()) == sum(p.numel() for p in ours.actor.parameters())
        assert model.replay_buffer.full
        assert model.learning_rate == 1e-3
        before = model.actor.state_dict()["mu.weight" if name == "sac" else "mu.0.weight"].clone()
        step()
        step()
        after = model.actor.state_dict()["mu.weight" if name == "sac" else "mu.0.weight"]
        assert not torch.equal(before, after)


# Whole loops


def test_a_loop_says_where_its_time_went(flowbench) -> None:
    arguments = ["--loop", "Pendulum-v1", "--algo", f"td3[{TINY}]", "--steps", 60, "--stack", "1,2", "--device", "cpu"]
    status, out, err = flowbench("bench", *arguments, "--format", "json")
    assert (status, err) == (0, "")
    told = json.loads(out)
    assert told["header"]["task"] == "Pendulum-v1"
    assert [row["stack"] for row in told["rows"]] == [1, 2]
    for row in told["rows"]:
        assert set(row["wall"]) == {"environment", "act", "replay", "update", "evaluation", "other"}
        assert sum(row["share"].values()) == pytest.approx(1.0)
        assert sum(row["wall"].values()) == pytest.approx(row["seconds"])
        assert sum(row["ms_per_step"].values()) == pytest.approx(1e3 * row["seconds"] / 60)
        share = row["share"]
        assert row["neither_environment_nor_update"] == pytest.approx(1 - share["environment"] - share["update"])
        assert row["build_seconds"] > 0
    status, out, _ = flowbench("bench", *arguments)
    assert status == 0
    for word in ("environment", "replay", "evaluation", "steps/s", "2 seeds"):
        assert word in out


def test_shares_of_a_clock_by_hand() -> None:
    spent = loop.spent({"environment": 1.0, "update": 2.0, "other": 1.0, "total": 4.0}, 1000)
    assert spent["share"] == {"environment": 0.25, "update": 0.5, "other": 0.25}
    assert spent["ms_per_step"] == {"environment": 1.0, "update": 2.0, "other": 1.0}
    assert spent["neither_environment_nor_update"] == 0.25


def test_a_task_is_found_in_a_suite_first_and_then_in_its_source() -> None:
    suite, task = loop.find("cartpole-swingup")
    assert suite.comparable
    assert task in suite.tasks
    suite, task = loop.find("Pendulum-v1")
    assert (suite.name, task.source, task.action_repeat) == ("bench", "gymnasium", 1)


# What people get wrong


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--algo", "sacc"], ["sacc", "'sac'"]),
        (["--algo", "sac[hiden=3]"], ["hiden", "'hidden'"]),
        (["--set", "hiden=3"], ["hiden", "'hidden'"]),
        (["--stack", "1,x"], ["--stack", "'1,x'"]),
        (["--stack", "0"], ["--stack", "'0'"]),
        (["--stack", ""], ["--stack", "''"]),
        (["--obs", "0"], ["--obs", "'0'"]),
        (["--batch", "many"], ["--batch", "'many'"]),
        (["--threads", "0"], ["--threads", "'0'"]),
        (["--seconds", "0"], ["--seconds", "'0'"]),
        (["--seconds", "soon"], ["--seconds", "'soon'"]),
        (["--format", "jsn"], ["jsn", "'json'"]),
        (["--device", "cdua"], ["cdua", "'cuda'"]),
        (["--precision", "float23"], ["float23", "'float32'"]),
        (["--precision", "tf32", "--device", "cpu"], ["tf32", "float32"]),
        (["--steps", "100"], ["--steps", "--loop"]),
        (["--loop", "cartpole-swingpu"], ["cartpole-swingpu", "'cartpole-swingup'"]),
        (["--loop", "cartpole-swingup", "--peers"], ["--peers", "--loop"]),
        (["--loop", "cartpole-swingup", "--obs", "3"], ["--obs", "--loop"]),
        (["--peers", "--algo", "flowrl"], ["--peers", "flowrl", "sac, td3"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line(flowbench, monkeypatch, arguments: list[str], words: list[str]) -> None:
    for module in (updates, loop):
        monkeypatch.setattr(module, "measure", lambda *_, **__: pytest.fail("something was measured"))
    status, out, err = flowbench("bench", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("flowbench: ")
    for word in words:
        assert word in err


def test_an_algorithm_that_cannot_be_counted_is_named_with_the_line(flowbench, small, tmp_path: Path) -> None:
    spec = write_algorithm(tmp_path, "Strays", "import torch\nbatch.obs + torch.zeros(1, 3)")
    status, out, err = flowbench("bench", "--algo", spec, "--stack", "1", *TINY_UPDATE)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "strays.py" in err
    assert "torch.zeros(1, 3)" in err


def test_a_peer_that_is_not_installed_is_asked_for(flowbench, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)  # as if it were not installed
    status, out, err = flowbench("bench", "--peers", "--algo", "sac")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "pip install" in err
    assert "[peers]" in err


def test_nothing_is_left_changed(flowbench, small) -> None:
    before = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    assert flowbench("bench", "--algo", "td3", "--stack", "1", *TINY_UPDATE, "--threads", before[0] + 1)[0] == 0
    assert (torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32) == before


def test_numbers_are_short() -> None:
    assert [show._number(value) for value in (0.01234, 1.0, 12.34, 1234.5, None)] == [
        "0.0123",
        "1.00",
        "12.3",
        "1,234",
        "-",
    ]
