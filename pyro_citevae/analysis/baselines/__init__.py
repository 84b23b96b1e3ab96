"""Baselines: simple rules and networks that a model must beat, asked as a posterior is."""

from pyro_citevae.analysis.baselines.across_contexts import (
    ContextRule,
    MeanOfContexts,
    NearestContext,
    NoChangeInContext,
    PooledLogRatio,
    ShrunkenMeanOfContexts,
    SimilarContexts,
)
from pyro_citevae.analysis.baselines.across_perturbations import (
    Additive,
    MatchingMean,
    MeanOfOthers,
    MeanOfSingles,
    StrongerSingle,
)
from pyro_citevae.analysis.baselines.cells_predictor import CellsPredictor
from pyro_citevae.analysis.baselines.context_table import ContextTable
from pyro_citevae.analysis.baselines.effect_table import EffectTable
from pyro_citevae.analysis.baselines.in_time import (
    DampedExtrapolation,
    LinearExtrapolation,
    Persistence,
    ShrunkenPersistence,
)
from pyro_citevae.analysis.baselines.latent_additive import LatentAdditive
from pyro_citevae.analysis.baselines.on_features import (
    LinearModel,
    NearestNeighbours,
    RidgeOnFeatures,
    SoftmaxKernel,
)
from pyro_citevae.analysis.baselines.rules import (
    AcrossPerturbations,
    Baseline,
    EffectRule,
    NoChange,
    Predictor,
)
from pyro_citevae.analysis.baselines.technical_duplicate import InterpolatedDuplicate, TechnicalDuplicate

__all__ = [
    "AcrossPerturbations",
    "Additive",
    "Baseline",
    "CellsPredictor",
    "ContextRule",
    "ContextTable",
    "DampedExtrapolation",
    "EffectRule",
    "EffectTable",
    "InterpolatedDuplicate",
    "LatentAdditive",
    "LinearExtrapolation",
    "LinearModel",
    "MatchingMean",
    "MeanOfContexts",
    "MeanOfOthers",
    "MeanOfSingles",
    "NearestContext",
    "NearestNeighbours",
    "NoChange",
    "NoChangeInContext",
    "Persistence",
    "PooledLogRatio",
    "Predictor",
    "RidgeOnFeatures",
    "ShrunkenMeanOfContexts",
    "ShrunkenPersistence",
    "SimilarContexts",
    "SoftmaxKernel",
    "StrongerSingle",
    "TechnicalDuplicate",
]
