"""Substitution: a program is run with given values at some of its sites."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_citevae.errors import CiteVAEWarning
from pyro_citevae.nn.shifted_laws import shifted
from pyro_citevae.sites import VALUES, step_of_state

__all__ = ["RolledOn", "Shifted", "Substitute"]


class Substitute(Messenger):
    """Gives sites fixed values; what is not named is drawn, and counts stand at their mean unless asked."""

    def __init__(self, values: dict[str, Tensor], *, mean: bool) -> None:
        super().__init__()
        self.values, self.mean = values, mean

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        if message["name"] in self.values:
            message["value"], message["done"] = self.values[message["name"]], True
        elif message["name"] == VALUES and self.mean:
            message["value"], message["done"] = message["fn"].mean.detach(), True


class RolledOn(Substitute):
    """Substitutes states up to each cell's last observation, and rolls the later ones on."""

    def __init__(self, values: dict[str, Tensor], last: Tensor) -> None:
        super().__init__(values, mean=False)
        self.last = last

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        super()._pyro_sample(message)
        name = message["name"]
        step = step_of_state(name)
        if step is not None and name in self.values:
            reached = (self.last >= step)[:, None]
            rolled = message["fn"].expand(self.values[name].shape[:-1]).sample()
            message["value"] = torch.where(reached, self.values[name], rolled)


class Shifted(Messenger):
    """Moves the law of the observed values: counts by the factor ``exp(shift)``, real values by the shift."""

    def __init__(self, shift: Float[np.ndarray, "draw time gene"]) -> None:
        super().__init__()
        self.shift = shift[:, :, None]  # the same for every cell

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        if message["name"] != VALUES:
            return
        law = message["fn"]
        moved = shifted(law, torch.as_tensor(self.shift).to(law.mean))
        if moved is None:
            warnings.warn(
                f"predicted cells of {type(law).__name__} are the program's own, since it is not known how to"
                " move their law; take effects, which are corrected, or draw the cells from a law of "
                "pyro_citevae.counts.",
                CiteVAEWarning,
                stacklevel=2,
            )
            return
        message["fn"] = moved
