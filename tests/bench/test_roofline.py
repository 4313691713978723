"""benchmarks/roofline.py: the work of an update is checked by hand, the measured rates only for consistency."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import algos
from benchmarks import roofline
from flowbench.bench import timing, updates
from flowbench.bench.setting import Setting


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "SQUARE", {"cpu": 16})
    monkeypatch.setattr(roofline, "LARGE", {"cpu": 1024})
    monkeypatch.setattr(updates, "TRANSITIONS", 50)


def mlp_flop(batch: int, *sizes: int) -> int:
    """A forward pass through layers of these widths; the gradients of its weights take as many operations."""
    return sum(2 * batch * a * b for a, b in pairwise(sizes))


def test_work_of_td3_by_hand() -> None:
    obs, act, hidden, batch = 5, 2, 8, 16
    entry = algos.find("td3").load()
    agent = entry(obs, act, entry.Config(hidden=hidden, policy_delay=2))
    before = {key: value.clone() for key, value in agent.state_dict().items()}
    actor, critic = (obs, hidden, hidden, act), (obs + act, hidden, hidden, 1)
    forward_actor, forward_critic = mlp_flop(batch, *actor), mlp_flop(batch, *critic)
    # Target action, two target values, two values; gradients of both critics' weights and of their hidden layers.
    of_critic = forward_actor + 2 * forward_critic + 2 * (2 * forward_critic + mlp_flop(batch, *critic[1:]))
    # The action and its value; the gradient down to the action, then the actor's weights and hidden layers.
    of_actor = forward_actor + 2 * forward_critic + forward_actor + mlp_flop(batch, *actor[1:])
    counted = roofline.count(agent, batch)
    assert counted.flop == of_critic + of_actor / 2
    assert str(counted.product) == "16x8x8"

    weights = {name: sum(p.numel() for p in getattr(agent, name).parameters()) for name in ("actor", "critic")}
    of_batch = batch * (2 * obs + act + 2) + 1
    moved = 8 * weights["critic"] + (8 * weights["actor"] + 3 * (weights["actor"] + weights["critic"])) / 2
    assert counted.bytes == 4 * (moved + 2 * of_batch)
    assert counted.resident == 4 * (5 * (weights["actor"] + weights["critic"]) + of_batch)
    assert all(torch.equal(before[key], value) for key, value in agent.state_dict().items())


def test_floor_is_the_longer_of_computing_and_moving() -> None:
    floor = roofline.Floor(flop=6e9, bytes=1e9, flops=2e9, bandwidth=1e9)
    assert (floor.seconds, floor.bound) == (3.0, "compute")
    floor = roofline.Floor(flop=6e9, bytes=4e9, flops=2e9, bandwidth=1e9)
    assert (floor.seconds, floor.bound) == (4.0, "memory")


def test_work_is_multiplied_by_the_seeds(small) -> None:
    one = roofline.Work(100.0, 1000.0, roofline.Product(4, 8, 8), 4000)
    limits = roofline.Limits(Setting(torch.device("cpu"), "float32", 1), 0.01)
    limits.need(one, 3)
    timing.in_rounds(limits.timed, rounds=1)
    floor = limits.floor(one, 3)
    assert (floor.flop, floor.bytes) == (300.0, 3000.0)
    assert floor.seconds > 0


@pytest.mark.slow
def test_table_has_the_floor_of_each_update(small, capsys) -> None:
    sizes = ["--obs", "3", "--act", "1", "--seconds", "0.02", "--device", "cpu", "--threads", "1"]
    roofline.main(["--algo", "sac,td3", "--set", "hidden=8", "--set", "batch_size=4", *sizes])
    out = capsys.readouterr().out
    assert "GFLOP/s in products 16x16x16" in out
    header, _, *rows = out.strip().rpartition("\n\n")[2].splitlines()
    assert "| floor ms | bound | of floor |" in header
    assert [row.split()[1].partition("[")[0] for row in rows] == ["sac", "td3"]
    names = [name.strip() for name in header.split("|")]
    for row in rows:
        update, floor = (float(row.split("|")[names.index(name)]) for name in ("update ms", "floor ms"))
        assert 0 < floor < update
