"""Reports on a results folder: ``build`` a Report from the frames of ``flowbench.store.load``, then print it."""

import sys

from flowbench import FunctionPackage
from flowbench.report.assemble import Report, Section, build
from flowbench.report.drawing import Drawing
from flowbench.report.formats import FORMATS, render, show

__all__ = ["FORMATS", "Drawing", "Report", "Section", "build", "render", "show"]

sys.modules[__name__].__class__ = FunctionPackage
