"""The rows of a large table that a minibatch has to do with: those of the tokens that act in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["RowsInUse"]


@final
@dataclass(frozen=True)
class RowsInUse:
    r"""Tokens that act in a minibatch, and what the terms of their rows count.

    A row of values that token p has for itself, such as its deviations from the model, meets the data in p's
    cells alone. So its terms ``t_p = log p(row_p) - log q(row_p)`` are taken in minibatches with such cells::

        sum_p t_p = E sum_{p in minibatch} w_p t_p      w_p = (share of the minibatch's cells that p acts in)
                                                              / (share of all cells that p acts in)

    since ``E w_p = 1`` over minibatches, and ``w_p = 0`` where p does not act.

    Attributes:
        tokens: The tokens, in their order.
        weight: w_p of each.

    Source: M. D. Hoffman et al., Stochastic Variational Inference (2013), for terms that are scaled so.
    """

    tokens: Int[Tensor, " acting"]
    weight: Float[Tensor, "acting 1"]

    @classmethod
    def of(
        cls,
        u: Float[Tensor, "step cell token"],
        share: Float[Tensor, " token"],
        weight: Float[Tensor, " cell"] | None = None,
    ) -> RowsInUse:
        """The rows of a minibatch.

        Args:
            u: Doses.
            share: Share of all cells that each token acts in.
            weight: What each cell counts; None for one each.

        Example:
            >>> import torch
            >>> u = torch.zeros(2, 4, 3)
            >>> u[1, 0, 2] = u[1, 1, 0] = u[1, 2, 0] = 1.0
            >>> rows = RowsInUse.of(u, torch.tensor([0.25, 0.25, 0.5]))
            >>> rows.tokens.tolist(), rows.weight.ravel().tolist()
            ([0, 2], [2.0, 0.5])
        """
        acts = (u != 0).any(0).to(u.dtype)
        here = acts.mean(0) if weight is None else weight.to(u.dtype) @ acts / len(weight)
        tokens = here.nonzero()[:, 0]
        return cls(tokens, (here / share.clamp(min=1e-12)).index_select(0, tokens)[:, None])
