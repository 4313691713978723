"""The Python API: the functions of `import flowbench as fb`. Arguments and errors are those of the command line."""

from flowbench.api.agent import TrainedAgent, train
from flowbench.api.grids import compare, load, report, run

__all__ = ["TrainedAgent", "compare", "load", "report", "run", "train"]
