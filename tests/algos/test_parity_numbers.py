"""The invented numbers of the parity tests: the same everywhere, or every comparison would fail without a reason."""

import math

import pytest
import torch
from parity import checksum, normal, uniform, weight


def test_the_hash_is_splitmix64():
    """Its first outputs from the state 0 are known; the CRC-32 of the empty name is 0."""
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert uniform("", 3).tolist() == [(z >> 11) / 2**53 for z in known]


def test_another_name_gives_other_numbers_and_a_shape_only_folds_them():
    assert uniform("a", 6).tolist() == uniform("a", 2, 3).flatten().tolist()
    assert uniform("a", 6).tolist() != uniform("b", 6).tolist()


def test_the_numbers_are_as_uniform_and_as_normal_as_their_names_say():
    flat, bell = uniform("flat", 20_000), normal("bell", 20_000)
    assert flat.mean().item() == pytest.approx(0.5, abs=0.01)
    assert flat.var().item() == pytest.approx(1 / 12, rel=0.03)
    assert bell.mean().item() == pytest.approx(0.0, abs=0.02)
    assert bell.std().item() == pytest.approx(1.0, rel=0.02)
    assert bell.pow(4).mean().item() == pytest.approx(3.0, rel=0.1)
    assert weight("layer", 100, 200, gain=2.0).std().item() == pytest.approx(2.0 / math.sqrt(200), rel=0.03)


def test_a_checksum_moves_with_every_entry():
    tensor = torch.ones(3, 4)
    sums = set()
    for i in range(12):
        moved = tensor.clone().flatten()
        moved[i] += 1e-3
        sums.add(round(checksum("tensor", moved.reshape(3, 4)) - checksum("tensor", tensor), 9))
    assert len(sums) == 12
    assert 0.0 not in sums
