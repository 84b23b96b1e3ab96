"""Latent dynamical causal processes for single-cell perturbation screens, as Pyro programs."""

from pyro_citevae import program
from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.conformance import check_guide, check_model
from pyro_citevae.data import (
    GeneFeatures,
    Schedule,
    Schema,
    Split,
    Trajectories,
    datasets,
    do,
    features,
    simulate,
)
from pyro_citevae.errors import CiteVAEError
from pyro_citevae.infer import Ensemble, Posterior, fit, nuts
from pyro_citevae.nn import counts
from pyro_citevae.program import LatentDynamics, Mechanism
from pyro_citevae.registry import load
from pyro_citevae.renamed import remember_modules

__version__ = "0.1.0"

remember_modules()

__all__ = [
    "AmortizedGuide",
    "CiteVAEError",
    "Ensemble",
    "GeneFeatures",
    "LatentDynamics",
    "Mechanism",
    "Posterior",
    "Schedule",
    "Schema",
    "Split",
    "Trajectories",
    "check_guide",
    "check_model",
    "counts",
    "datasets",
    "do",
    "features",
    "fit",
    "load",
    "nuts",
    "program",
    "simulate",
]
