"""Inference: fit by SVI or draw by MCMC, hold the posterior, predict by the same program."""

from typing import Any

import lazy_loader

from pyro_citevae.renamed import attributes

# what there is stands in __init__.pyi; each is imported when it is used first
_of_today, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
_of_before = attributes(__name__, {})


def __getattr__(name: str) -> Any:
    return _of_today(name) if name in __all__ else _of_before(name)
