"""A report on a run: a notebook that is executed, and a page of it that needs nothing else."""

from pyro_citevae.report.page import page
from pyro_citevae.report.write import write

__all__ = ["page", "write"]
