"""Turns what a user asks for into cells: suite, task, algorithm variant and seed, each with one resolved config."""
