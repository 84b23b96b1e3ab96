"""Analysis: baselines, scores, protocols, mechanisms, pictures."""

from pyro_citevae.analysis.baselines import (
    Baseline,
    LinearExtrapolation,
    MeanOfOthers,
    NoChange,
    Persistence,
    Predictor,
)
from pyro_citevae.analysis.effects import edge_probabilities
from pyro_citevae.analysis.evaluation import Measurement, evaluate, markdown, measure, summary
from pyro_citevae.analysis.held_out_time import Forecast, forecast

__all__ = [
    "Baseline",
    "Forecast",
    "LinearExtrapolation",
    "MeanOfOthers",
    "Measurement",
    "NoChange",
    "Persistence",
    "Predictor",
    "edge_probabilities",
    "evaluate",
    "forecast",
    "markdown",
    "measure",
    "summary",
]
