"""`flowbench bench`: measured times are only checked for consistency."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from fakes import TINY, ToyConfig

import algos
from flowbench.bench import loop, peers, show, timing, updates
from flowbench.bench.setting import Setting
from flowbench.train.replay import Replay

CPU = Setting(torch.device("cpu"), "float32", 1)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replay buffers that are filled quickly."""
    monkeypatch.setattr(updates, "TRANSITIONS", 50)


TINY_UPDATE = ["--set", "hidden=8", "--obs", 3, "--act", 1, "--batch", 4, "--seconds", "0.05", "--device", "cpu"]


# Timing


def test_every_round_times_every_call() -> None:
    calls: list[str] = []
    timed = [timing.Timed(lambda name=name: calls.append(name), torch.device("cpu"), 2, 1e-6) for name in "ab"]
    timing.in_rounds(timed, rounds=3)
    squeezed = [name for name, before in zip(calls, [None, *calls], strict=False) if name != before]
    assert squeezed[:4] == ["a", "b", "a", "b"]
    assert all(1 <= len(each.rounds) <= 3 and each.seconds > 0 for each in timed)


def test_the_result_is_the_median_of_the_rounds() -> None:
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


@pytest.mark.slow
def test_json_holds_the_times_and_the_machine(flowbench, small) -> None:
    status, out, err = flowbench("bench", "--algo", "td3,sac", "--stack", "1,2", *TINY_UPDATE, "--format", "json")
    assert (status, err) == (0, "")
    printed = json.loads(out)
    assert {"machine", "versions", "date"} <= set(printed["header"])
    assert [(row["algo"], row["stack"], row["kind"]) for row in printed["rows"]] == [
        ("td3[hidden=8]", 1, "separate"), ("td3[hidden=8]", 2, "stacked"),
        ("sac[hidden=8]", 1, "separate"), ("sac[hidden=8]", 2, "stacked"),
    ]  # fmt: skip
    for row in printed["rows"]:
        assert (row["obs"], row["act"], row["batch"], row["hidden"], row["threads"]) == (3, 1, 4, 8, 1)
        assert (row["device"], row["peers"]) == ("cpu", {})
        assert row["update_ms"] > 0
        assert row["act_ms"] > 0
        assert row["seed_updates_per_second"] == pytest.approx(row["stack"] * row["updates_per_second"])


def timed_row(seeds: int, **peers: float) -> dict[str, object]:
    """The row of an update of 0.2 s; `peers` are seconds."""
    update, act, *others = (SimpleNamespace(seconds=seconds) for seconds in (0.2, 0.1, *peers.values()))
    variant = SimpleNamespace(label="sac", config=ToyConfig(), entry=SimpleNamespace(name="sac"))
    learner = SimpleNamespace(kind="stacked", parameters=10)
    subject = updates.Subject(variant, learner, seeds, update, act, dict(zip(peers, others, strict=True)), (60.5, 10))
    return updates.row(subject, CPU, updates.Sizes(3, 1))


def test_ratio_compares_the_same_number_of_seeds() -> None:
    row = timed_row(4, sb3=0.3, sbx=0.04)
    assert row["peers"] == {
        "sb3": {"update_ms": pytest.approx(1200), "ratio": pytest.approx(6.0)},
        "sbx": {"update_ms": pytest.approx(160), "ratio": pytest.approx(0.8)},
    }


def test_the_table_has_the_ratio_to_each_peer() -> None:
    header = {**CPU.header(), "versions": {"flowbench": "1", "torch": "2", "sbx": "3", "jax": "4"}}
    rows = [timed_row(4, sb3=0.3, sbx=0.04), timed_row(1)]
    assert list(show.peer_columns(rows)) == ["SB3\nms", "SB3/\nours", "SBX\nms", "SBX/\nours"]
    shown = show.updates(header, rows, "markdown")
    assert "SB3 ms | SB3/ours | SBX ms | SBX/ours |" in shown
    assert "| 1,200 | 6.00 | 160 | 0.800 |" in shown
    assert "| - | - | - | - |" in shown
    assert "sbx 3, jax 4" in shown


@pytest.mark.parametrize("format", ["table", "markdown"])
def test_output_for_people(flowbench, small, format: str) -> None:
    status, out, err = flowbench("bench", "--algo", "td3", "--stack", "1", *TINY_UPDATE, "--format", format)
    assert (status, err) == (0, "")
    assert "td3" in out
    assert "peer" not in out
    assert ("| --- | ---: |" in out) == (format == "markdown")


@pytest.mark.slow
@pytest.mark.parametrize("key", ["sb3", "sbx"])
def test_peer_has_a_time_and_a_ratio(flowbench, small, monkeypatch, key: str) -> None:
    (peer,) = (peer for peer in peers.PEERS if peer.key == key)
    pytest.importorskip(peer.module)
    monkeypatch.setattr(peers, "PEERS", (peer,))
    status, out, err = flowbench(
        "bench", "--peers", "--algo", "sac,td3,flowrl", "--stack", "1", *TINY_UPDATE, "--threads", "1",
        "--format", "json",
    )  # fmt: skip
    assert (status, err) == (0, "")
    printed = json.loads(out)
    assert printed["header"]["versions"][peer.module]
    assert [list(row["peers"]) for row in printed["rows"]] == [[key], [key], []]
    for row in printed["rows"][:2]:
        assert row["peers"][key]["ratio"] == pytest.approx(row["peers"][key]["update_ms"] / row["update_ms"])


def test_peer_has_our_networks_and_a_full_replay() -> None:
    pytest.importorskip("stable_baselines3")
    for name in ("sac", "td3"):
        config = algos.find(name).load().Config(hidden=8, batch_size=4, lr=1e-3)
        variant = SimpleNamespace(entry=algos.find(name), config=config)
        step, model = peers.build(peers.PEERS[0], variant, 3, 1, 20, CPU)
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


def test_sbx_has_our_networks_and_a_full_replay() -> None:
    pytest.importorskip("sbx")
    import jax
    import numpy as np

    def numbers(parameters: object) -> list[np.ndarray]:
        return [np.array(leaf) for leaf in jax.tree.leaves(parameters)]

    for name in ("sac", "td3"):
        config = algos.find(name).load().Config(hidden=8, batch_size=4, lr=1e-3)
        variant = SimpleNamespace(entry=algos.find(name), config=config)
        step, model = peers.build(peers.PEERS[1], variant, 3, 1, 20, CPU)
        ours = algos.find(name).load()(3, 1, config)
        actor, critic = model.policy.actor_state.params, model.policy.qf_state.params
        assert sum(each.size for each in numbers(critic)) == sum(p.numel() for p in ours.critic.parameters())
        assert sum(each.size for each in numbers(actor)) == sum(p.numel() for p in ours.actor.parameters())
        assert model.replay_buffer.full
        assert (model.learning_rate, model.qf_learning_rate, model.tau, model.batch_size) == (1e-3, 1e-3, config.tau, 4)
        before = numbers(actor)
        step()
        step()
        after = numbers(model.policy.actor_state.params)
        assert not any(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


# Whole training runs


@pytest.mark.slow
def test_loop_times_each_part_of_a_run(flowbench) -> None:
    arguments = ["--loop", "Pendulum-v1", "--algo", f"td3[{TINY}]", "--steps", 60, "--stack", "1,2", "--device", "cpu"]
    status, out, err = flowbench("bench", *arguments, "--format", "json")
    assert (status, err) == (0, "")
    printed = json.loads(out)
    assert printed["header"]["task"] == "Pendulum-v1"
    assert [row["stack"] for row in printed["rows"]] == [1, 2]
    for row in printed["rows"]:
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
    parts = loop.by_part({"environment": 1.0, "update": 2.0, "other": 1.0, "total": 4.0}, 1000)
    assert parts["share"] == {"environment": 0.25, "update": 0.5, "other": 0.25}
    assert parts["ms_per_step"] == {"environment": 1.0, "update": 2.0, "other": 1.0}
    assert parts["neither_environment_nor_update"] == 0.25


def test_tasks_of_suites_are_found_before_those_of_sources() -> None:
    suite, task = loop.find("cartpole-swingup")
    assert suite.comparable
    assert task in suite.tasks
    suite, task = loop.find("Pendulum-v1")
    assert (suite.name, task.source, task.action_repeat) == ("bench", "gymnasium", 1)


# Usage errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--algo", "sacc"], ["sacc", "'sac'"]),
        (["--algo", "sac[hiden=3]"], ["hiden", "'hidden'"]),
        (["--stack", "1,x"], ["--stack", "'1,x'"]),
        (["--stack", "0"], ["--stack", "'0'"]),
        (["--obs", "0"], ["--obs", "'0'"]),
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
def test_usage_error_is_one_line(flowbench, monkeypatch, arguments: list[str], words: list[str]) -> None:
    for module in (updates, loop):
        monkeypatch.setattr(module, "measure", lambda *_, **__: pytest.fail("something was measured"))
    status, out, err = flowbench("bench", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("flowbench: ")
    for word in words:
        assert word in err


def test_without_any_peer_it_is_a_usage_error(flowbench, monkeypatch) -> None:
    for module in ("stable_baselines3", "sbx"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    status, out, err = flowbench("bench", "--peers", "--algo", "sac")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "pip install" in err
    assert "[peers]" in err


def test_a_missing_peer_is_named_and_the_other_is_used(monkeypatch, capsys) -> None:
    variant = SimpleNamespace(entry=SimpleNamespace(name="sac"))
    sb3, sbx = peers.PEERS
    monkeypatch.setattr(peers.Peer, "is_installed", property(lambda peer: peer is sb3))
    assert peers.installed([variant]) == [sb3]
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "SBX" in err
    assert "pip install sbx-rl" in err
    monkeypatch.setattr(peers.Peer, "is_installed", property(lambda peer: True))
    assert peers.installed([variant]) == [sb3, sbx]
    assert capsys.readouterr().err == ""


def test_torch_settings_are_restored(flowbench, small) -> None:
    before = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    assert flowbench("bench", "--algo", "td3", "--stack", "1", *TINY_UPDATE, "--threads", before[0] + 1)[0] == 0
    assert (torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32) == before


def test_numbers_have_three_digits() -> None:
    numbers = [show.number(value) for value in (0.01234, 1.0, 12.34, 99.96, 1234.5, None)]
    assert numbers == ["0.0123", "1.00", "12.3", "100", "1,234", "-"]
