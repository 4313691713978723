"""flowbench: a benchmark that settles whether one online-RL algorithm beats another."""

__version__ = "0.1.0"
