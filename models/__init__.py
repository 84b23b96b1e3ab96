"""Models: each file one generative process, written like the methods section of a paper."""

if __name__ != "pyro_citevae.models":
    raise ImportError("import pyro_citevae.models; the bare name 'models' would be a second identity.")

from pyro_citevae.models.citevae import CiteVAE
from pyro_citevae.models.linear_gaussian import LinearGaussian
from pyro_citevae.models.static_shift import StaticShift

__all__ = ["CiteVAE", "LinearGaussian", "StaticShift"]
