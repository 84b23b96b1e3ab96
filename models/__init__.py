"""Models: each file one generative process, written like the methods section of a paper."""

if __name__ != "pyro_citevae.models":
    raise ImportError("import pyro_citevae.models; the bare name 'models' would be a second identity.")

from pyro_citevae.models.citevae import CiteVAE
from pyro_citevae.models.continuous_time import ContinuousTime
from pyro_citevae.models.image_sequence import ImageSequence
from pyro_citevae.models.instantaneous import Instantaneous
from pyro_citevae.models.linear_gaussian import LinearGaussian
from pyro_citevae.models.static_shift import StaticShift
from pyro_citevae.models.switching import Switching
from pyro_citevae.models.targeted_lag import TargetedLag

__all__ = [
    "CiteVAE",
    "ContinuousTime",
    "ImageSequence",
    "Instantaneous",
    "LinearGaussian",
    "StaticShift",
    "Switching",
    "TargetedLag",
]
