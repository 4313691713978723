"""Evaluates trained agents and records videos of them: `flowbench eval`."""
