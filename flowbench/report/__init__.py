"""What a results folder says: build a Report from the two frames of ``flowbench.store.load``, then print it."""

from flowbench.report.assemble import Report, Section, build
from flowbench.report.formats import FORMATS, render
from flowbench.report.tables import show

__all__ = ["FORMATS", "Report", "Section", "build", "render", "show"]
