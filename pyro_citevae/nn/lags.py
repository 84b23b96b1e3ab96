"""Time-lagged mechanisms: how the past states of the programs move each program."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["kept", "linear", "saturating"]


def linear(
    W: Float[Tensor, "... lag program program"], history: Sequence[Float[Tensor, "... program"]]
) -> Float[Tensor, "... program"]:
    """``sum_l W_l z_{t-l}``, where ``history[-l]`` is ``z_{t-l}`` and lags before step 0 are left out.

    Args:
        W: Weights; entry [l, k, j] is that of program j on program k at lag l + 1.
        history: Past states, the latest last.

    Example:
        >>> import torch
        >>> linear(torch.eye(2)[None], [torch.ones(3, 2), 2 * torch.ones(3, 2)])[0]
        tensor([2., 2.])
    """
    lags = min(W.shape[-3], len(history))
    terms = [history[-lag] @ W[..., lag - 1, :, :].mT for lag in range(1, lags + 1)]
    return torch.stack(terms).sum(0)


def saturating(
    W: Float[Tensor, "... lag program program"], history: Sequence[Float[Tensor, "... program"]]
) -> Float[Tensor, "... program"]:
    """``sum_l W_l tanh(z_{t-l})``: a program's influence is bounded, so a roll-out stays finite."""
    lags = min(W.shape[-3], len(history))
    return linear(W, [torch.tanh(z) for z in history[-lags:]])


def kept(
    m: Float[Tensor, "... token program"], u: Float[Tensor, "cell token"]
) -> Float[Tensor, "... cell program"]:
    """``prod_p (1 - m_pk)^u_p``: the share of its past that each program keeps under tokens that cut it off.

    Args:
        m: How far each token cuts each program off, in [0, 1].
        u: Dose of each token.

    Example:
        >>> import torch
        >>> u = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
        >>> kept(torch.tensor([[1.0, 0.5], [0.0, 0.5]]), u).round(decimals=2)
        tensor([[1.0000, 1.0000],
                [0.0000, 0.2500]])
    """
    # the product over tokens as a matrix product of logarithms, and tiny for the logarithm of zero
    left = (1 - m).clamp(min=torch.finfo(m.dtype).tiny)
    return torch.exp(u @ left.log())
