"""Training in this process changes its threads and its signal handlers."""

from __future__ import annotations

import signal

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def _process_state():
    threads = torch.get_num_threads()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    yield
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)
