"""Differentiable parts without a Pyro site: counts, emissions, flows, lags, networks, priors."""

from pyro_citevae.nn import counts, emissions, flow, lags, networks, priors

__all__ = ["counts", "emissions", "flow", "lags", "networks", "priors"]
