import pytest
import torch
from handmade import Draws


@pytest.fixture(autouse=True)
def _one_thread_and_a_known_seed():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def draws(monkeypatch):
    """Replaces torch's random numbers by those put into `draws.normal` and `draws.uniform`; all must be used."""
    draws = Draws()
    monkeypatch.setattr(torch, "randn_like", draws.randn_like)
    monkeypatch.setattr(torch, "rand_like", draws.rand_like)
    yield draws
    assert not draws.normal, "fewer normal numbers are drawn than expected"
    assert not draws.uniform, "fewer uniform numbers are drawn than expected"
