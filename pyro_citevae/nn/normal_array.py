"""Arrays of independent normals, such as the shifts of all tokens: one law, one log-density."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.distributions.util import sum_rightmost
from torch import Tensor

__all__ = ["NormalArray"]


@final
class NormalArray(dist.Independent):
    """``N(loc, scale)`` for every entry of an array.

    ``log p(x) = -sum_i ((x_i - loc_i) / scale_i)^2 / 2 - sum_i log scale_i - n log(2 pi) / 2``. A mean or a
    scale that many entries share is read where it lies, and its logarithm is taken once: of the values that a
    group takes on there are as many as genes, tokens and steps together.

    Args:
        loc: Mean, which broadcasts to the array; axes to its left are a batch of arrays.
        scale: Standard deviation, likewise.
        shape: Shape of the array: the law's event shape.
        batch_shape: Shape of a batch of arrays that share mean and scale.
        weight: What the log-density of each entry counts, which broadcasts to the array; None for one each.

    Example:
        >>> import torch
        >>> law = NormalArray(torch.zeros(()), torch.tensor([[0.5], [2.0]]), (2, 3))
        >>> law.event_shape, law.log_prob(torch.zeros(2, 3)).round(decimals=3)
        (torch.Size([2, 3]), tensor(-5.5140))
    """

    def __init__(
        self,
        loc: Float[Tensor, ...],
        scale: Float[Tensor, ...] | float,
        shape: Sequence[int],
        batch_shape: Sequence[int] = (),
        weight: Float[Tensor, ...] | None = None,
    ) -> None:
        self.weight = weight
        self.shared: Any = dist.Normal(loc, scale)
        whole = torch.broadcast_shapes(self.shared.batch_shape, (*batch_shape, *shape))
        super().__init__(self.shared.expand(whole), len(shape))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> NormalArray:
        """As many of these arrays; none of their entries is copied."""
        return NormalArray(self.shared.loc, self.shared.scale, self.event_shape, batch_shape, self.weight)

    def log_prob(self, value: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """The log-density of whole arrays."""
        if self._validate_args:
            self._validate_sample(value)
        loc, scale, n = self.shared.loc, self.shared.scale, self.reinterpreted_batch_ndims
        if self.weight is not None:
            each = self.weight * (((value - loc) / scale).square() / -2 - scale.log())
            counted = self.weight.expand(self.event_shape).sum()
            weighed: Tensor = sum_rightmost(each, n) - counted * math.log(2 * math.pi) / 2
            return weighed.expand(torch.broadcast_shapes(weighed.shape, self.batch_shape))
        log_scale = scale.log().expand(torch.broadcast_shapes(scale.shape, self.event_shape))
        quadratic = sum_rightmost(((value - loc) / scale).square(), n)
        constant = self.event_shape.numel() * math.log(2 * math.pi) / 2
        found: Tensor = -quadratic / 2 - sum_rightmost(log_scale, n) - constant
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))
