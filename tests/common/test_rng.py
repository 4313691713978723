"""Random streams: no two uses share one."""

from __future__ import annotations

import itertools

import pytest
import torch

from flowbench.common.rng import TorchStream, stream_seed

CPU = torch.device("cpu")


def test_seeds_of_streams_differ_by_run_purpose_and_index() -> None:
    indices: dict[str, list[tuple[int, ...]]] = {
        "torch": [()],
        "replay": [()],
        "random-actions": [()],
        "training": [(episode,) for episode in range(20)],
        "evaluation": list(itertools.product(range(5), range(5))),
        "evaluation-policy": [(index,) for index in range(20)],
    }
    seeds = [stream_seed(s, p, *i) for s in range(10) for p, found in indices.items() for i in found]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_seeds_of_streams_stay_what_they_are() -> None:
    # Published numbers can only be had again while these do not move.
    assert (stream_seed(0, "training", 0), stream_seed(7, "torch")) == (3174584095, 4041354566)


def test_a_stream_does_not_disturb_the_one_outside() -> None:
    torch.manual_seed(3)
    undisturbed = torch.rand(4)
    torch.manual_seed(3)
    stream = TorchStream(1, CPU)
    first = torch.rand(2)
    with stream:
        torch.rand(100)
    assert torch.equal(torch.cat([first, torch.rand(2)]), undisturbed)


def test_a_stream_continues_where_it_stopped() -> None:
    stream = TorchStream(1, CPU)
    drawn = []
    for _ in range(3):
        with stream:
            drawn.append(torch.rand(2))
        torch.rand(5)
    assert torch.equal(torch.cat(drawn), torch.rand(6, generator=torch.Generator().manual_seed(1)))


def test_streams_used_in_turn_draw_the_numbers_of_each_alone() -> None:
    one, two = TorchStream(1, CPU), TorchStream(2, CPU)
    drawn: dict[int, list[torch.Tensor]] = {1: [], 2: []}
    for _ in range(3):
        for number, stream in ((1, one), (2, two)):
            with stream:
                drawn[number].append(torch.rand(1))
    for number in (1, 2):
        assert torch.equal(torch.cat(drawn[number]), torch.rand(3, generator=torch.Generator().manual_seed(number)))


def test_an_error_inside_gives_the_outer_stream_back() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with pytest.raises(RuntimeError), TorchStream(1, CPU):
        torch.rand(3) @ torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
