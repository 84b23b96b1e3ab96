"""Kriging: rows of new tokens from those of tokens that are like them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["kriged"]


def kriged(
    rows: Float[Tensor, "draw token width"],
    covariance: Float[Tensor, "draw token token"],
    seen: Bool[Tensor, " token"],
    donor: Int[Tensor, "draw token"],
) -> Float[Tensor, "draw token width"]:
    r"""Rows whose unseen ones are forecast from the seen ones, and miss the forecast as a seen one does.

    With S the covariance of the seen rows R, k_u the covariances of an unseen one with them, and P = S^-1::

        w_u = P k_u             v_u = k_uu - k_u' P k_u           weights of the forecast, its variance
        e_q = (P R)_q / P_qq    v_q = 1 / P_qq                    residual of q when it is left out
        row_u = w_u' R + sqrt(v_u / v_q) e_q

    where q is the donor of the draw, or ``row_u = w_u' R + sqrt(v_u) N(0, I)`` for none (-1). Residuals of
    seen rows in place of a normal keep what perturbations share beside their features, and say how often
    features mislead.

    Args:
        rows: Rows less their population mean; those of unseen tokens are not read.
        covariance: Prior covariance between tokens, the same for every column.
        seen: Which tokens have training cells.
        donor: For each draw and token, the seen token whose residual it has, or -1.

    Source: C. E. Rasmussen and C. K. I. Williams, Gaussian Processes for Machine Learning (2006); for the
    residuals, O. Dubrule, Cross Validation of Kriging in a Unique Neighborhood (1983).

    Example:
        >>> import torch
        >>> covariance = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]])[None]
        >>> rows, seen = torch.tensor([[[0.0], [2.0], [4.0]]]), torch.tensor([False, True, True])
        >>> rows = kriged(rows, covariance, seen, torch.tensor([[2, 1, 2]]))
        >>> round(float(rows[0, 0, 0]), 4)  # 0.5 * 2 + sqrt(0.75) * 4
        4.4641
    """
    S, k = covariance[:, seen][:, :, seen].double(), covariance[:, ~seen][:, :, seen].double()
    R = rows[:, seen].double()
    P = torch.linalg.inv(S)
    weight = k @ P
    v = covariance.diagonal(dim1=-2, dim2=-1)[:, ~seen].double() - (weight * k).sum(-1)
    standard = (P @ R) / P.diagonal(dim1=-2, dim2=-1).sqrt()[..., None]
    chosen = donor[:, ~seen]
    place = (seen.cumsum(0) - 1).clamp(min=0)[chosen.clamp(min=0)]
    missed = standard.gather(1, place[..., None].expand(*place.shape, R.shape[-1]))
    missed = torch.where(chosen[..., None] < 0, torch.randn_like(missed), missed)
    forecast = weight @ R + v.clamp(min=0.0).sqrt()[..., None] * missed
    found = rows.clone()
    found[:, ~seen] = forecast.to(rows.dtype)
    return found
