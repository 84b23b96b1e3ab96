"""Scenes: Causal-3DIdent, an object that moves by a known process, as states, as images and as renderings."""

from pyro_citevae.scenes import dynamics, factors, render
from pyro_citevae.scenes.sequences import ImageSequences
from pyro_citevae.scenes.triplets import ImageTriplets
from pyro_citevae.scenes.writing import write

__all__ = ["ImageSequences", "ImageTriplets", "dynamics", "factors", "render", "write"]
