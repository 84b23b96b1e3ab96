"""What cells of a context have by themselves: where they start, and what they express."""

from __future__ import annotations

from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from pyro_citevae.program import Mechanism

__all__ = ["CONTEXT_TERMS", "Baseline", "Start"]

CONTEXT_TERMS = ("start", "baseline", "mechanism")
"""What a context may change: the state before a perturbation, expression, and what perturbations do."""


class _OfContexts:
    """Rows of a parameter by the cells' contexts; the mean row where cells are of no one context.

    Args:
        model: The model whose parameter it is.
        name: Name of the parameter.
        width: Length of a row.
        on: Whether it is there; zero if not.
    """

    def __init__(self, model: Any, name: str, width: int, on: bool) -> None:
        self.model, self.name, self.on = model, name, on
        if on:
            model.register_parameter(name, Parameter(torch.zeros(model.schema.n_contexts, width)))

    def __call__(self, mechanism: Mechanism) -> Float[Tensor, ...]:
        """The rows of the cells, of shape (cell, width); (width,) for no one context."""
        if not self.on:
            found: Tensor = self.model.zero
            return found
        rows, context = getattr(self.model, self.name), mechanism.context
        return rows.mean(0) if context is None else rows.index_select(0, context)


@final
class Start(_OfContexts):
    """``z_{n,0} ~ N(mu_z, I)``: cells of a context start in a state of their own.

    Args:
        model: The model whose term it is.
        on: Whether it is there.
    """

    def __init__(self, model: Any, on: bool) -> None:
        super().__init__(model, "mu_z", model.n_programs, on)


@final
class Baseline(_OfContexts):
    """``x ~ NB(library softmax(f(z, s) + context + ...))``: genes that a context expresses otherwise.

    Args:
        model: The model whose term it is.
        n_moved: Number of shares that it moves.
        on: Whether it is there.
    """

    def __init__(self, model: Any, n_moved: int, on: bool) -> None:
        super().__init__(model, "context_effect", n_moved, on)
