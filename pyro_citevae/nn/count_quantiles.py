"""Quantiles of counts whose mean is uncertain, without draws of the counts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Float
from scipy import special
from scipy.ndimage import map_coordinates, spline_filter  # type: ignore[attr-defined]

__all__ = ["count_quantiles"]

# the table's axes: log m and log phi by equal steps, and b densely where a little spread changes much
_LEAST_MEAN, _MEANS, _MEAN_STEP = -9.5, 44, 0.5
_LEAST_DISPERSION, _DISPERSIONS, _DISPERSION_STEP = -12.0, 16, 1.0
_MOST_SPREAD, _SPREADS, _SPREAD_POWER = 2.5, 13, 1.8
_NODES = np.linspace(-4.0, 4.0, 29)
_BISECTIONS = 18
_LEAST, _MOST = -8.0, 18.0  # of log(quantile + 1)


def count_quantiles(
    mean: Float[np.ndarray, "*value"],
    variance: Float[np.ndarray, "*value"],
    dispersion: Float[np.ndarray, "*value"],
    probabilities: Sequence[float],
) -> list[Float[np.ndarray, "*value"]]:
    r"""The smallest counts that are reached with given probabilities, where the mean is uncertain.

    ::

        x | mu ~ NB(mu),  var(x | mu) = mu + phi mu^2
        log mu ~ N(log m - b^2 / 2, b^2)                  b^2 = log(1 + s^2 / m^2)

    so that mu has mean m and variance s^2. A table of ``F^-1`` over log m, b and log phi is made once, by the
    trapezium rule over log mu and the incomplete beta function, and interpolated by cubic splines: at the
    count that is found F is right to within 0.01.

    Args:
        mean: m, positive.
        variance: s^2 of the mean.
        dispersion: phi; 0 for a Poisson.
        probabilities: Which quantiles.

    Returns:
        Whole numbers, for each probability.

    Example:
        >>> zero, ten = np.zeros(1), np.full(1, 10.0)
        >>> count_quantiles(ten, zero, zero, [0.05, 0.95])
        [array([5.]), array([15.])]
        >>> count_quantiles(ten, zero, zero + 1.0, [0.05, 0.95])
        [array([0.]), array([31.])]
    """
    found = []
    for probability in probabilities:
        count = np.zeros(np.shape(mean))
        some = np.exp(-np.asarray(mean)) < probability  # of the others more are zero, by Jensen's inequality
        count[some] = _interpolated(mean[some], variance[some], dispersion[some], probability)
        found.append(count)
    return found


def _interpolated(
    mean: Float[np.ndarray, " value"],
    variance: Float[np.ndarray, " value"],
    dispersion: Float[np.ndarray, " value"],
    probability: float,
) -> Float[np.ndarray, " value"]:
    """The count by the table."""
    log_mean, b = np.log(mean), np.sqrt(np.log1p(variance / mean**2))
    place = [
        (log_mean - _LEAST_MEAN) / _MEAN_STEP,
        (_SPREADS - 1) * (b / _MOST_SPREAD) ** (1 / _SPREAD_POWER),
        (np.log(np.maximum(dispersion, 1e-30)) - _LEAST_DISPERSION) / _DISPERSION_STEP,
    ]
    within = [np.clip(one, 0, n - 1) for one, n in zip(place, _SHAPE, strict=True)]
    beyond = np.maximum(place[0] - (_MEANS - 1), 0.0) * _MEAN_STEP  # where quantiles grow as the mean does
    log_count = map_coordinates(_splines(probability), within, order=3, prefilter=False)
    return np.asarray(np.maximum(np.ceil(np.exp(log_count + beyond) - 1 - 1e-3), 0.0))


_SHAPE = (_MEANS, _SPREADS, _DISPERSIONS)


@cache
def _splines(probability: float) -> Float[np.ndarray, "mean spread dispersion"]:
    """Coefficients of ``log(F^-1 + 1)``, where F is continued between whole numbers by the beta function."""
    w = np.exp(-(_NODES**2) / 2)
    w /= w.sum()
    log_mean = _LEAST_MEAN + _MEAN_STEP * np.arange(_MEANS)
    spread = _MOST_SPREAD * np.linspace(0.0, 1.0, _SPREADS) ** _SPREAD_POWER
    dispersion = np.exp(_LEAST_DISPERSION + _DISPERSION_STEP * np.arange(_DISPERSIONS))
    L, b, phi = (one[..., None] for one in np.meshgrid(log_mean, spread, dispersion, indexing="ij"))
    success = 1 / (1 + phi * np.exp(L - b**2 / 2 + b * _NODES))
    low, high = np.full(_SHAPE, _LEAST), np.full(_SHAPE, _MOST)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        below = special.betainc(1 / phi, np.exp(middle)[..., None], success) @ w < probability
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray(spline_filter((low + high) / 2, order=3, mode="mirror"))
