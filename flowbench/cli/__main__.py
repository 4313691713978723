"""`python -m flowbench.cli`."""

from flowbench.cli import main

main()
