"""Laws of observed values that are moved: counts by a factor, real values by a difference."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor

from pyro_citevae.nn.counts import CountLaw

__all__ = ["shifted"]


@singledispatch
def shifted(law: Any, by: Float[Tensor, ...]) -> Any:
    """The law of counts with its mean times ``exp(by)``, or of real values moved by ``by``; None if unknown.

    Args:
        law: A law of independent values.
        by: How far, broadcast against the values.

    Example:
        >>> import torch
        >>> law = shifted(dist.Poisson(torch.ones(2)).to_event(1), torch.tensor([0.0, 1.0]).log1p())
        >>> law.mean
        tensor([1., 2.])
    """
    return None


@shifted.register(CountLaw)
def _(law: CountLaw, by: Float[Tensor, ...]) -> Any:
    return law.shifted(by)


@shifted.register(dist.Independent)
def _(law: dist.Independent, by: Float[Tensor, ...]) -> Any:
    moved = shifted(law.base_dist, by)
    return None if moved is None else moved.to_event(law.reinterpreted_batch_ndims)


@shifted.register(dist.Poisson)
def _(law: dist.Poisson, by: Float[Tensor, ...]) -> Any:
    return dist.Poisson(law.rate * by.exp(), validate_args=False)


@shifted.register(dist.NegativeBinomial)
def _(law: dist.NegativeBinomial, by: Float[Tensor, ...]) -> Any:
    return dist.NegativeBinomial(law.total_count, logits=law.logits + by, validate_args=False)


@shifted.register(dist.GammaPoisson)
def _(law: dist.GammaPoisson, by: Float[Tensor, ...]) -> Any:
    return dist.GammaPoisson(law.concentration, law.rate * (-by).exp(), validate_args=False)


@shifted.register(dist.Normal)
def _(law: dist.Normal, by: Float[Tensor, ...]) -> Any:
    return dist.Normal(law.loc + by, law.scale, validate_args=False)
