"""Sums of a few rows of a large table: a product with a design matrix that is mostly zero."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["weighted_rows"]


def weighted_rows(
    rows: Float[Tensor, "... row gene"],
    index: Int[Tensor, "*cell chosen"],
    weight: Float[Tensor, "... chosen"],
    acts: Bool[Tensor, "*cell chosen"],
) -> Float[Tensor, "... gene"]:
    """``sum_j weight_nj rows[index_nj]`` over the j that act in cell n.

    A cell has one or two of the many perturbations, so that a product with the whole design matrix would
    multiply by zeros almost alone. What does not act costs nothing and gets no gradient.

    Args:
        rows: The table; under a plate of draws ``(draw, 1, row, gene)``, a one for each axis of cells
            but the last.
        index: Rows that a cell may have.
        weight: What each counts; under a plate of draws ``(draw, *cell, chosen)``.
        acts: Which of them count at all.

    Example:
        >>> import torch
        >>> table, index = torch.eye(3), torch.tensor([[0, 2], [1, 2]])
        >>> weighted_rows(table, index, torch.tensor([[1.0, 5.0], [2.0, 0.0]]), index < 2)
        tensor([[1., 0., 0.],
                [0., 2., 0.]])
    """
    cells, n_chosen = index.shape[:-1], index.shape[-1]
    table = rows.reshape(-1, *rows.shape[-2:])
    each = weight.reshape(-1, cells.numel(), n_chosen)
    n_draws = max(len(table), len(each))
    cell, chosen = acts.reshape(-1, n_chosen).nonzero(as_tuple=True)
    # each draw has a copy of the table, one behind the other, or all share one
    shift = torch.arange(n_draws, device=index.device)[:, None] * (len(table) > 1) * table.shape[1]
    n_acting = acts.reshape(-1, n_chosen).sum(-1).repeat(n_draws)
    summed = torch.nn.functional.embedding_bag(
        (index.reshape(-1, n_chosen)[cell, chosen] + shift).flatten(),
        table.flatten(0, 1),
        n_acting.cumsum(0) - n_acting,
        mode="sum",
        per_sample_weights=each[:, cell, chosen].expand(n_draws, -1).flatten(),
    )
    lead = weight.shape[: weight.dim() - index.dim()] or (n_draws,) * (rows.dim() > 2)
    return summed.reshape(*lead, *cells, rows.shape[-1])
