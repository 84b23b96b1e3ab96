"""Differentiable parts without a Pyro site: count distributions, lagged mechanisms, networks."""

from pyro_citevae.nn import counts, lags, networks

__all__ = ["counts", "lags", "networks"]
