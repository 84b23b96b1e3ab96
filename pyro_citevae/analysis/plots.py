"""All pictures of the library, from one module.

Each takes ``ax=``, an axis of one's own or one for each panel, and then returns it; else it returns a
:class:`~pyro_citevae.picture.Picture`, which a notebook shows without a magic command. Lines differ in colour
and in style or marker, so that they are told apart in grey.
"""

from pyro_citevae.analysis.criticism.coverage_plots import calibration, coverage
from pyro_citevae.analysis.criticism.plots import ecdf_differences, pareto_k, pit, predictive_checks
from pyro_citevae.analysis.decision_plots import licence, ranking
from pyro_citevae.analysis.effect_plots import effects, volcano
from pyro_citevae.analysis.fit_plots import interactions, training
from pyro_citevae.analysis.program_plots import lag_graph, program_genes, program_shifts, trajectories

__all__ = [
    "calibration",
    "coverage",
    "ecdf_differences",
    "effects",
    "interactions",
    "lag_graph",
    "licence",
    "pareto_k",
    "pit",
    "predictive_checks",
    "program_genes",
    "program_shifts",
    "ranking",
    "training",
    "trajectories",
    "volcano",
]
