"""What `flowbench watch` shows: a snapshot of a results folder, and its display."""
