"""Experiments of papers: one folder per paper, one YAML file per experiment, each at three scales.

`experiment` reads the files and `run` runs them: as a grid (`grids`), as a timing (`timing`), or with the Python module
that the file names. To add an experiment, add its YAML file to the paper's folder.
"""
