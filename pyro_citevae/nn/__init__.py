"""Differentiable parts without a Pyro site: count distributions, flows, lagged mechanisms, networks."""

from pyro_citevae.nn import counts, flow, lags, networks

__all__ = ["counts", "flow", "lags", "networks"]
