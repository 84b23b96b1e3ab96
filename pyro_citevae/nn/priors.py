"""Priors of global sites: arrays of independent entries."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor

__all__ = ["gate", "normal"]

_TEMPERATURE = 0.5


def normal(loc: Float[Tensor, ...], scale: Float[Tensor, ...] | float, *shape: int) -> Distribution:
    """``N(loc, scale)`` for every entry of an array.

    Args:
        loc: Mean, which broadcasts to the shape.
        scale: Standard deviation, which broadcasts to the shape.
        *shape: Shape of the array: the law's event shape.

    Example:
        >>> import torch
        >>> normal(torch.zeros(()), 0.3, 2, 4).event_shape
        torch.Size([2, 4])
    """
    law: Any = dist.Normal(loc, scale)
    return law.expand(shape).to_event(len(shape))


def gate(open_share: Float[Tensor, ""], *shape: int) -> Distribution:
    """A relaxed Bernoulli on (0, 1) for every entry of an array: an edge or a target that may be absent.

    Args:
        open_share: Prior odds of an open gate, as a probability.
        *shape: Shape of the array: the law's event shape.

    Source: C. J. Maddison, A. Mnih and Y. W. Teh, The Concrete Distribution (2017).

    Example:
        >>> import torch
        >>> law = gate(torch.tensor(0.2), 2, 4)
        >>> law.event_shape, bool((law.sample() < 1).all())
        (torch.Size([2, 4]), True)
    """
    law: Any = dist.RelaxedBernoulli(torch.full_like(open_share, _TEMPERATURE), probs=open_share)
    return law.expand(shape).to_event(len(shape))
