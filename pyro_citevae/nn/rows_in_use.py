"""The rows of a large table that a minibatch has to do with: those of the tokens that act in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pyro_citevae.nn.fixed_shapes import shapes_are_fixed

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
        tokens: The tokens in use.
        place: Where each of the screen's tokens stands among them; any place for one that is not in use.
        weight: w_p of each; None where all tokens are in use and their terms count once.
        padded: Whether tokens of no weight may stand among them.

    Source: M. D. Hoffman et al., Stochastic Variational Inference (2013), for terms that are scaled so.
    """

    tokens: Int[Tensor, " used"]
    place: Int[Tensor, " token"]
    weight: Float[Tensor, "used 1"] | None = None
    padded: bool = False

    @classmethod
    def every(cls, n_tokens: int, device: torch.device | None = None) -> RowsInUse:
        """The rows of all tokens."""
        tokens = torch.arange(n_tokens, device=device)
        return cls(tokens, tokens)

    @classmethod
    def of_tokens(cls, tokens: Int[Tensor, " used"], n_tokens: int) -> RowsInUse:
        """The rows of some tokens, each of which counts once.

        Args:
            tokens: The tokens, no one twice.
            n_tokens: How many the screen has.
        """
        place = tokens.new_zeros(n_tokens)
        place[tokens] = torch.arange(len(tokens), device=tokens.device)
        return cls(tokens, place, torch.ones(len(tokens), 1, device=tokens.device))

    @classmethod
    def acting(cls, token: Int[Tensor, "cell given"], amount: Float[Tensor, "... cell given"]) -> RowsInUse:
        """The rows of the tokens that act at all.

        Args:
            token: Tokens of each cell, of which one may act or not.
            amount: How much of each.
        """
        acts = (amount != 0).reshape(-1, *token.shape).any(0)
        tokens = token[acts].unique() if acts.any() else token.reshape(-1)[:1]
        place = token.new_zeros(int(token.max()) + 1)
        place[tokens] = torch.arange(len(tokens), device=token.device)
        return cls(tokens, place)

    @classmethod
    def of_minibatch(
        cls,
        token: Int[Tensor, "cell given"],
        amount: Float[Tensor, "step cell given"],
        share: Float[Tensor, " token"],
        weight: Float[Tensor, " cell"] | None = None,
    ) -> RowsInUse:
        """The rows of a minibatch.

        Where shapes are fixed they are as many as cells of this number may have to do with, those beyond the
        acting ones at no weight.

        Args:
            token: Tokens of each cell, no token twice but at amount zero.
            amount: How much of each.
            share: Share of all cells that each token acts in.
            weight: What each cell counts; None for one each.

        Example:
            >>> import torch
            >>> token, amount = torch.tensor([[2], [0], [0], [1]]), torch.tensor([[1.0], [1.0], [1.0], [0.0]])
            >>> rows = RowsInUse.of_minibatch(token, amount[None], torch.tensor([0.25, 0.25, 0.5, 0.0]))
            >>> rows.tokens.tolist(), rows.weight.ravel().tolist()
            ([0, 2], [2.0, 0.5])
        """
        n_cells, n_tokens = len(token), len(share)
        acts = (amount != 0).any(0).to(share.dtype)
        here = share.new_zeros(n_tokens)
        counted = acts if weight is None else acts * weight.to(share.dtype)[:, None]
        here = here.index_add(0, token.reshape(-1), counted.reshape(-1)) / n_cells
        order = here.ne(0).int().argsort(dim=0, descending=True, stable=True)
        padded = shapes_are_fixed()
        n = min(n_tokens, token.numel()) if padded else max(1, int(here.ne(0).sum()))
        tokens = order[:n]
        place = torch.empty_like(order).scatter(0, order, torch.arange(n_tokens, device=order.device))
        counted = (here / share.clamp(min=1e-12)).index_select(0, tokens)[:, None]
        return cls(tokens, place.clamp(max=n - 1), counted, padded)

    def of(self, rows: Float[Tensor, "... token value"]) -> Float[Tensor, "... used value"]:
        """Of a row for each of the screen's tokens, those of the tokens in use."""
        return rows.index_select(-2, self.tokens)

    def of_local(self, rows: Float[Tensor, "... row value"]) -> Float[Tensor, "... used value"]:
        """The same of rows that were drawn for the tokens in use alone, where they have weights."""
        return self.of(rows) if self.weight is None else rows
