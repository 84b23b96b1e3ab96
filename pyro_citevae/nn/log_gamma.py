"""Log-gammas of counts in plain operations, which a compiler runs many at a time."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["log_factorial", "log_rising", "rising_slope"]

_SHIFT = 6  # steps up, from where Stirling's series is exact to 1e-11
_LINEAR = 40.0  # from which on log(1 + e^x) is x in double precision
_FAR = (-600.0, 100.0)  # of log theta, between which products of seven factors stay finite


def log_rising(x: Float[Tensor, ...], log_theta: Float[Tensor, ...]) -> Float[Tensor, ...]:
    r"""``lgamma(x + theta) - lgamma(theta) - x log theta``, which is ``sum_{i < x} log(1 + i / theta)``.

    The difference of two log-gammas loses digits. So both are moved up by six steps, by ``lgamma(y) =
    lgamma(y + 6) - log(y (y + 1) ... (y + 5))``, and Stirling's series subtracted term by term: to 1e-11 for
    every theta.

    Args:
        x: Counts, zero or more, in double precision.
        log_theta: Logarithm of theta.

    Source: M. Abramowitz and I. A. Stegun, Handbook of Mathematical Functions (1964), 6.1.15 and 6.1.41.

    Example:
        >>> import torch
        >>> x = torch.tensor([0.0, 3.0]).double()
        >>> log_rising(x, torch.zeros(2).double()).exp().round()  # 3! at theta = 1
        tensor([1., 6.], dtype=torch.float64)
    """
    theta = log_theta.clamp(*_FAR).exp()
    low = theta + _SHIFT
    high = low + x
    above, below = x + theta, theta
    for i in range(1, _SHIFT):
        above, below = above * (x + theta + i), below * (theta + i)
    stirling = (high - 0.5) * torch.log1p(x / low) - x + _remainder(1 / high) - _remainder(1 / low)
    return stirling + x * softplus(math.log(_SHIFT) - log_theta, threshold=_LINEAR) - torch.log(above / below)


def rising_slope(x: Float[Tensor, ...], log_theta: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """``theta (digamma(x + theta) - digamma(theta)) - x``, the derivative of :func:`log_rising`."""
    theta = log_theta.clamp(*_FAR).exp()
    low = theta + _SHIFT
    steps = x / (x + theta)
    for i in range(1, _SHIFT):
        steps = steps + theta * x / ((theta + i) * (x + theta + i))
    digammas = torch.log1p(x / low) - _slope(1 / (low + x)) + _slope(1 / low)
    return theta * digammas + steps - x


def log_factorial(x: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """``lgamma(x + 1)`` of counts, in double precision.

    Example:
        >>> import torch
        >>> log_factorial(torch.tensor([0.0, 4.0]).double()).exp().round()
        tensor([ 1., 24.], dtype=torch.float64)
    """
    high, steps = x + 1 + _SHIFT, x + 1
    for i in range(2, _SHIFT + 1):
        steps = steps * (x + i)
    stirling = (high - 0.5) * torch.log(high) - high + 0.5 * math.log(2 * math.pi)
    return stirling + _remainder(1 / high) - torch.log(steps)


def _remainder(r: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """What Stirling's formula leaves out of lgamma(1 / r)."""
    s = r * r
    return r * (1 / 12 + s * (-1 / 360 + s * (1 / 1260 + s * (-1 / 1680 + s / 1188))))


def _slope(r: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """``log(1 / r) - digamma(1 / r)``."""
    s = r * r
    return r * (0.5 + r * (1 / 12 + s * (-1 / 120 + s * (1 / 252 + s * (-1 / 240 + s / 132)))))
