"""The negative binomial by log mean and log inverse dispersion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all

__all__ = ["NegativeBinomial"]

_LOG_LARGE = 4.0


class NegativeBinomial(TorchDistribution):
    r"""Counts with mean ``mu`` and variance ``mu + mu^2 / theta``.

    ``log p(x) = lgamma(x + theta) - lgamma(theta) - lgamma(x + 1)
    + theta (log theta - log(theta + mu)) + x (log mu - log(theta + mu))``

    Args:
        log_mean: Logarithm of the mean ``mu``.
        log_inverse_dispersion: Logarithm of ``theta``; large values approach the Poisson.

    Example:
        >>> import torch
        >>> law = NegativeBinomial(torch.zeros(3), torch.zeros(()))
        >>> law.log_prob(torch.tensor([0.0, 1.0, 2.0])).exp()
        tensor([0.5000, 0.2500, 0.1250])
    """

    arg_constraints = {  # noqa: RUF012 - the attribute torch reads
        "log_mean": constraints.real,
        "log_inverse_dispersion": constraints.real,
    }
    support = constraints.nonnegative_integer

    def __init__(
        self,
        log_mean: Float[Tensor, ...],
        log_inverse_dispersion: Float[Tensor, ...],
        validate_args: bool | None = None,
    ) -> None:
        self.log_mean, self.log_inverse_dispersion = broadcast_all(log_mean, log_inverse_dispersion)
        super().__init__(self.log_mean.shape, torch.Size(), validate_args=validate_args)

    @property
    def mean(self) -> Float[Tensor, ...]:
        """``mu``."""
        return self.log_mean.exp()

    @property
    def variance(self) -> Float[Tensor, ...]:
        """``mu + mu^2 / theta``."""
        mu = self.mean
        return mu + mu.square() * torch.exp(-self.log_inverse_dispersion)

    def expand(self, batch_shape: torch.Size | Sequence[int], _instance: Any = None) -> NegativeBinomial:
        """Broadcasts the parameters."""
        shape = torch.Size(batch_shape)
        return NegativeBinomial(
            self.log_mean.expand(shape),
            self.log_inverse_dispersion.expand(shape),
            validate_args=self._validate_args,
        )

    def log_prob(self, value: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """Log probability of counts."""
        if self._validate_args:
            self._validate_sample(value)
        log_theta, log_mu = self.log_inverse_dispersion, self.log_mean
        theta = log_theta.exp()
        log_ratio = torch.logaddexp(log_mu - log_theta, torch.zeros_like(log_mu))  # log(1 + mu / theta)
        rising = _log_rising(theta, log_theta, value) - torch.lgamma(value + 1)
        return rising + value * log_mu - (value + theta) * log_ratio

    def sample(self, sample_shape: torch.Size | Sequence[int] = torch.Size()) -> Float[Tensor, ...]:  # noqa: B008
        """Draws counts as a gamma mixture of Poissons."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            log_theta = self.log_inverse_dispersion.clamp(max=30.0)  # beyond, a Poisson in any precision
            rate = torch._standard_gamma(log_theta.exp().expand(shape)) * (self.log_mean - log_theta).exp()
            return torch.poisson(rate)


def _log_rising(
    theta: Float[Tensor, ...], log_theta: Float[Tensor, ...], x: Float[Tensor, ...]
) -> Float[Tensor, ...]:
    """``lgamma(x + theta) - lgamma(theta) - x log theta``.

    From theta = e^4 on by Stirling's series: the difference of two large numbers would lose all digits.
    """
    exact = torch.lgamma(x + theta) - torch.lgamma(theta) - x * log_theta
    log_large = log_theta.clamp(min=_LOG_LARGE)
    ratio = x * torch.exp(-log_large)
    series = (log_large.exp() + x - 0.5) * torch.log1p(ratio) - x
    series = series + torch.exp(-log_large) * (1 / (1 + ratio) - 1) / 12
    series = series - torch.exp(-3 * log_large) * ((1 + ratio) ** -3 - 1) / 360
    return torch.where(log_theta < _LOG_LARGE, exact, series)
