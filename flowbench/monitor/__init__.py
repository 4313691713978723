"""The live view of `flowbench watch`: a snapshot of a results folder, and how it is displayed."""
