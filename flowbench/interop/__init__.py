"""Learning curves in the files of others: read as runs marked `published`, and ours written as such files.

A format is a module with `SUFFIX`, `read` and, where ours are written in it, `write`. In every format a step is one of
the simulator, an action that is held for several counted as several; a return is the undiscounted sum over an episode.
"""
