"""Guides: each file one factorisation of the amortised posterior, or of the mechanism's."""

if __name__ != "pyro_citevae.guides":
    raise ImportError("import pyro_citevae.guides; the bare name 'guides' would be a second identity.")

from pyro_citevae.guides.backward_smoother import BackwardSmoother
from pyro_citevae.guides.flow import Flow
from pyro_citevae.guides.forward_filter import ForwardFilter
from pyro_citevae.guides.framewise import Framewise
from pyro_citevae.guides.kalman_smoother import KalmanSmoother
from pyro_citevae.guides.mean_field import MeanField
from pyro_citevae.guides.mechanism_posterior import MechanismPosterior

__all__ = [
    "BackwardSmoother",
    "Flow",
    "ForwardFilter",
    "Framewise",
    "KalmanSmoother",
    "MeanField",
    "MechanismPosterior",
]
