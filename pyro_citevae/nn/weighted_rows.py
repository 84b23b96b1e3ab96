"""Sums of a few rows of a large table: a product with a design matrix that is mostly zero."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pyro_citevae.nn.fixed_shapes import shapes_are_fixed

__all__ = ["weighted_rows"]


def weighted_rows(
    rows: Float[Tensor, "... row gene"],
    index: Int[Tensor, "*cell chosen"],
    weight: Float[Tensor, "... chosen"],
) -> Float[Tensor, "... gene"]:
    """``sum_j weight_nj rows[index_nj]`` over the few rows j that a cell has.

    A cell has one or two of the many perturbations, so that a product with the whole design matrix would
    multiply by zeros almost alone.

    Args:
        rows: The table; under a plate of draws ``(draw, 1, row, gene)``, a one for each axis of cells
            but the last.
        index: Rows that a cell may have.
        weight: What each counts; under a plate of draws ``(draw, *cell, chosen)``.

    Example:
        >>> import torch
        >>> table, index = torch.eye(3), torch.tensor([[0, 2], [1, 2]])
        >>> weighted_rows(table, index, torch.tensor([[1.0, 5.0], [2.0, 0.0]]))
        tensor([[1., 0., 5.],
                [0., 2., 0.]])
    """
    cells, n_chosen = index.shape[:-1], index.shape[-1]
    table = rows.reshape(-1, *rows.shape[-2:])
    each = weight.reshape(-1, cells.numel(), n_chosen)
    n_draws = max(len(table), len(each))
    lead = weight.shape[: weight.dim() - index.dim()] or (n_draws,) * (rows.dim() > 2)
    # each draw has a copy of the table, one behind the other, or all share one
    shift = torch.arange(n_draws, device=index.device)[:, None, None] * (len(table) > 1) * table.shape[1]
    place = (index.reshape(-1, n_chosen) + shift).reshape(-1, n_chosen)
    each = each.expand(n_draws, -1, -1).reshape(-1, n_chosen)
    if rows.is_cuda or shapes_are_fixed():  # a bag's gradient asks which rows there are
        chosen = table.flatten(0, 1).index_select(0, place.reshape(-1)).unflatten(0, place.shape)
        summed = (chosen * each[..., None]).sum(-2)
    else:
        summed = torch.nn.functional.embedding_bag(
            place, table.flatten(0, 1), mode="sum", per_sample_weights=each
        )
    return summed.reshape(*lead, *cells, rows.shape[-1])
