"""Identifiability: what may be said of the latent states and their mechanisms."""

from pyro_citevae.analysis.identifiability.edge_probabilities import edge_probabilities
from pyro_citevae.analysis.identifiability.factor_recovery import FactorRecovery, factor_recovery
from pyro_citevae.analysis.identifiability.licence import Check, Licence, licence
from pyro_citevae.analysis.identifiability.recovery import Matching, match, recovery

__all__ = [
    "Check",
    "FactorRecovery",
    "Licence",
    "Matching",
    "edge_probabilities",
    "factor_recovery",
    "licence",
    "match",
    "recovery",
]
