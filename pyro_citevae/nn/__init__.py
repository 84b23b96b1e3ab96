"""Differentiable parts without a Pyro site: counts, emissions, flows, lagged mechanisms, networks."""

from pyro_citevae.nn import counts, emissions, flow, lags, networks

__all__ = ["counts", "emissions", "flow", "lags", "networks"]
