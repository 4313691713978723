"""Published learning curves in, ours out: `flowbench import` and `flowbench export`.

`importing` stores curves as runs marked `published`, and `exporting` writes our runs. Each file format is a module with
`SUFFIX`, `read` and, if it can be exported, `write`. In every format steps are simulator steps (an action that is
repeated twice takes two), and a return is the undiscounted sum of rewards over an episode.
"""
