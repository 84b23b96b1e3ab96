"""Analysis: baselines, scores, protocols, criticism, mechanisms, pictures."""

from pyro_citevae.analysis.baselines import Baseline, NoChange, Predictor
from pyro_citevae.analysis.baselines_across_perturbations import (
    Additive,
    MatchingMean,
    MeanOfOthers,
    MeanOfSingles,
    StrongerSingle,
)
from pyro_citevae.analysis.baselines_in_time import (
    DampedExtrapolation,
    LinearExtrapolation,
    Persistence,
    ShrunkenPersistence,
)
from pyro_citevae.analysis.baselines_on_features import (
    LinearModel,
    NearestNeighbours,
    RidgeOnFeatures,
    SoftmaxKernel,
)
from pyro_citevae.analysis.calibration import coverage, randomised_pit
from pyro_citevae.analysis.criticism import predictive_check
from pyro_citevae.analysis.effect_table import EffectTable
from pyro_citevae.analysis.effects import edge_probabilities
from pyro_citevae.analysis.evaluation import (
    Measurement,
    cell_rows,
    evaluate,
    markdown,
    measure,
    measured_effects,
    scaled_scores,
    skills,
    summary,
)
from pyro_citevae.analysis.held_out_time import Forecast, forecast
from pyro_citevae.analysis.identifiability import Matching, match, recovery
from pyro_citevae.analysis.importance_sampling import held_out_bound, pareto_k
from pyro_citevae.analysis.latent_additive import LatentAdditive
from pyro_citevae.analysis.licence import Check, Licence, licence
from pyro_citevae.analysis.simulation_based_calibration import quantities, simulation_based_calibration
from pyro_citevae.analysis.technical_duplicate import InterpolatedDuplicate, TechnicalDuplicate
from pyro_citevae.analysis.uniformity import ecdf_band, uniform
from pyro_citevae.analysis.virtual_cell_challenge import challenge_scores

__all__ = [
    "Additive",
    "Baseline",
    "Check",
    "DampedExtrapolation",
    "EffectTable",
    "Forecast",
    "InterpolatedDuplicate",
    "LatentAdditive",
    "Licence",
    "LinearExtrapolation",
    "LinearModel",
    "Matching",
    "MatchingMean",
    "MeanOfOthers",
    "MeanOfSingles",
    "Measurement",
    "NearestNeighbours",
    "NoChange",
    "Persistence",
    "Predictor",
    "RidgeOnFeatures",
    "ShrunkenPersistence",
    "SoftmaxKernel",
    "StrongerSingle",
    "TechnicalDuplicate",
    "cell_rows",
    "challenge_scores",
    "coverage",
    "ecdf_band",
    "edge_probabilities",
    "evaluate",
    "forecast",
    "held_out_bound",
    "licence",
    "markdown",
    "match",
    "measure",
    "measured_effects",
    "pareto_k",
    "predictive_check",
    "quantities",
    "randomised_pit",
    "recovery",
    "scaled_scores",
    "simulation_based_calibration",
    "skills",
    "summary",
    "uniform",
]
