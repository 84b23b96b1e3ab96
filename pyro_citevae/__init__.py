"""Latent dynamical causal processes for single-cell perturbation screens, as Pyro programs."""

import lazy_loader

from pyro_citevae.renamed import remember_modules

__version__ = "0.2.0"

remember_modules()

# what there is stands in __init__.pyi; each is imported when it is used first
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
