"""The work of `flowbench run`: preview a grid, estimate its cost, train it, and show its progress."""
