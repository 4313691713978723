"""From what a user asks for to cells: suite, task, algorithm variant and seed, each with one resolved config."""
