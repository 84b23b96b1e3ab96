"""Analysis: baselines, scores, protocols, criticism, mechanisms, pictures."""

from pyro_citevae.analysis.baselines import (
    Baseline,
    LinearExtrapolation,
    MeanOfOthers,
    NoChange,
    Persistence,
    Predictor,
)
from pyro_citevae.analysis.calibration import coverage, randomised_pit
from pyro_citevae.analysis.criticism import predictive_check
from pyro_citevae.analysis.effects import edge_probabilities
from pyro_citevae.analysis.evaluation import (
    Measurement,
    evaluate,
    markdown,
    measure,
    measured_effects,
    summary,
)
from pyro_citevae.analysis.held_out_time import Forecast, forecast
from pyro_citevae.analysis.identifiability import Matching, match, recovery
from pyro_citevae.analysis.importance_sampling import held_out_bound, pareto_k
from pyro_citevae.analysis.simulation_based_calibration import quantities, simulation_based_calibration
from pyro_citevae.analysis.uniformity import ecdf_band, uniform

__all__ = [
    "Baseline",
    "Forecast",
    "LinearExtrapolation",
    "Matching",
    "MeanOfOthers",
    "Measurement",
    "NoChange",
    "Persistence",
    "Predictor",
    "coverage",
    "ecdf_band",
    "edge_probabilities",
    "evaluate",
    "forecast",
    "held_out_bound",
    "markdown",
    "match",
    "measure",
    "measured_effects",
    "pareto_k",
    "predictive_check",
    "quantities",
    "randomised_pit",
    "recovery",
    "simulation_based_calibration",
    "summary",
    "uniform",
]
