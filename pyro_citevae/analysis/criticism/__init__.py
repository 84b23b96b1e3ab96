"""Criticism: does the fitted program make data like those that were measured, and is its posterior honest?"""

from pyro_citevae.analysis.criticism.diagnosis import diagnose
from pyro_citevae.analysis.criticism.importance_sampling import held_out_bound, pareto_k
from pyro_citevae.analysis.criticism.predictive_checks import predictive_check
from pyro_citevae.analysis.criticism.randomised_pit import randomised_pit
from pyro_citevae.analysis.criticism.simulation_based_calibration import (
    quantities,
    simulation_based_calibration,
)
from pyro_citevae.analysis.criticism.uniformity import ecdf, ecdf_band, uniform

__all__ = [
    "diagnose",
    "ecdf",
    "ecdf_band",
    "held_out_bound",
    "pareto_k",
    "predictive_check",
    "quantities",
    "randomised_pit",
    "simulation_based_calibration",
    "uniform",
]
