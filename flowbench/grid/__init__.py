"""What `flowbench run` does with a grid: preview it, estimate its cost, run it, show its progress."""
