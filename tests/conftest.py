"""What holds for every test."""

from __future__ import annotations

import os

# Two threads on small networks wait for each other far longer than they compute, the more so beside other tests.
os.environ["OMP_NUM_THREADS"] = "1"
