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
        loc: Mean, which broadcasts to the array; axes to its left are a batch of arrays. The number 0 says
            that nothing need be taken off.
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
        loc: Float[Tensor, ...] | float,
        scale: Float[Tensor, ...] | float,
        shape: Sequence[int],
        batch_shape: Sequence[int] = (),
        weight: Float[Tensor, ...] | None = None,
    ) -> None:
        self.weight = weight
        self.centred = isinstance(loc, int | float) and loc == 0
        if self.centred and isinstance(scale, Tensor):
            loc = scale.new_zeros(())
        self.shared: Any = dist.Normal(loc, scale)
        self._drawn: tuple[Tensor, Tensor] | None = None
        whole = _onto(self.shared.batch_shape, torch.Size((*batch_shape, *shape)))
        super().__init__(self.shared.expand(whole), len(shape))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> NormalArray:
        """As many of these arrays; none of their entries is copied."""
        loc = 0.0 if self.centred else self.shared.loc
        return NormalArray(loc, self.shared.scale, self.event_shape, batch_shape, self.weight)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, ...]:
        """Draws arrays, ``loc + scale eps``, whose eps the log-density of a draw is taken from."""
        loc, scale = self.shared.loc, self.shared.scale
        eps = torch.randn(self._extended_shape(torch.Size(sample_shape)), dtype=loc.dtype, device=loc.device)
        drawn: Tensor = torch.addcmul(loc, eps, scale)
        self._drawn = (drawn, eps)
        return drawn

    def log_prob(self, value: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """The log-density of whole arrays.

        That of the last draw depends on the parameters by the scale alone: ``value - loc`` is ``scale eps``.
        """
        if self._validate_args:
            self._validate_sample(value)
        loc, scale = self.shared.loc, self.shared.scale
        if self._drawn is not None and value is self._drawn[0] and self._learns_from(value):
            quadratic = self._summed(self._drawn[1].square())
        else:
            squared = (value if self.centred else value - loc).square()
            if scale.shape[-1:] == (1,):  # which divides a row's sum as it does its entries
                squared = squared.sum(-1, keepdim=True)
            quadratic = self._summed(squared / scale.square())
        event, weight = self.event_shape, self.weight
        count = event.numel() if weight is None else weight.expand(event).sum()
        found: Tensor = -quadratic / 2 - self._log_scale() - count * (math.log(2 * math.pi) / 2)
        return found.expand(_onto(found.shape, self.batch_shape))

    def _log_scale(self) -> Float[Tensor, ...]:
        """The sum of the logarithms of the scales, each taken once."""
        log_scale, event = self.shared.scale.log(), self.event_shape
        if log_scale.shape[-1:] == (1,):  # a row's, as often as it has entries
            log_scale, event = log_scale * event[-1], torch.Size([*event[:-1], 1])
        return self._summed(log_scale.expand(_onto(log_scale.shape, event)))

    def _learns_from(self, drawn: Float[Tensor, ...]) -> bool:
        """Whether a draw's own dependence on mean and scale is there to cancel that of its density."""
        return drawn.requires_grad or not torch.is_grad_enabled()

    def _summed(self, squared: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """The sum over the event, by what each entry counts."""
        weight, n = self.weight, self.reinterpreted_batch_ndims
        if weight is None:
            return sum_rightmost(squared, n)
        if weight.shape[-1:] == (1,) and squared.shape[-1] != 1:
            squared = squared.sum(-1, keepdim=True)
        return sum_rightmost(squared * weight, n)


def _onto(shape: torch.Size, whole: torch.Size) -> torch.Size:
    """What two shapes broadcast to: the second where it holds the first, which torch takes long to find."""
    last = zip(reversed(shape), reversed(whole), strict=False)
    if len(shape) <= len(whole) and all(n in (1, m) for n, m in last):
        return whole
    return torch.broadcast_shapes(shape, whole)
