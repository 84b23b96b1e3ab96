"""Inference: fit by SVI or draw by MCMC, hold the posterior, predict by the same program."""

from pyro_citevae.infer.effect import Effect
from pyro_citevae.infer.ensemble import Ensemble
from pyro_citevae.infer.mcmc import nuts
from pyro_citevae.infer.posterior import Posterior
from pyro_citevae.infer.svi import FitSettings, fit
from pyro_citevae.infer.unmixing import unmix
from pyro_citevae.renamed import attributes

__all__ = ["Effect", "Ensemble", "FitSettings", "Posterior", "fit", "nuts", "unmix"]

__getattr__ = attributes(__name__, {})
