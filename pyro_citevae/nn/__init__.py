"""Differentiable parts without a Pyro site: counts, emissions, lags, networks, priors."""

from pyro_citevae.nn import counts, emissions, lags, networks, priors

__all__ = ["counts", "emissions", "lags", "networks", "priors"]
