"""Substitution: a program is run with given values at some of its sites."""

from __future__ import annotations

from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_citevae.sites import VALUES

__all__ = ["Substitute"]


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
