"""Scenes: Causal-3DIdent, an object that moves by a known process, as states, as images and as renderings."""

from pyro_citevae.scenes import dynamics, render, sequences
from pyro_citevae.scenes.sequences import ImageSequences, ImageTriplets

__all__ = ["ImageSequences", "ImageTriplets", "dynamics", "render", "sequences"]
