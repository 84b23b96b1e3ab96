"""Differentiable parts without a Pyro site: count distributions, emissions, lags, networks."""

from pyro_citevae.nn import counts, emissions, lags, networks

__all__ = ["counts", "emissions", "lags", "networks"]
