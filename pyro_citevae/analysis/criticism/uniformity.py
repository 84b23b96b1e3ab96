"""Whether values are uniform: their ECDF against a band that holds at all points at once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from scipy import special, stats

from pyro_citevae.errors import DataError

__all__ = ["ecdf", "ecdf_band", "uniform"]

_BINS = 100
_SIMULATIONS = 10_000
_EDGES = np.arange(1, _BINS) / _BINS
_ROUNDED = 1 - 1e-9  # masses that are equal but for rounding count as equal


def ecdf(values: xr.DataArray, dim: str) -> xr.DataArray:
    """``F(v) = share of the values below v``, at v = 0.01, 0.02, ..., 0.99.

    Args:
        values: Values between 0 and 1.
        dim: The dim over which they should be uniform.

    Returns:
        The other dims, and ``value``.

    Raises:
        DataError: A value is not between 0 and 1, or there is none.
    """
    counts = xr.apply_ufunc(
        _counts_below, values, input_core_dims=[[dim]], output_core_dims=[["value"]], keep_attrs=False
    )
    return (counts / values.sizes[dim]).assign_coords(value=_EDGES)


def ecdf_band(n: int, *, probability: float = 0.99) -> xr.DataArray:
    """The band in which the whole ECDF of n independent uniform values lies with a given probability.

    At each v the count of values below is binomial, ``B(n, v)``; the tail mass cut off is the same at each
    point, and such that 10,000 simulated ECDFs leave the band anywhere in a share ``1 - probability``.

    Args:
        n: Number of values.
        probability: Of the whole ECDF.

    Returns:
        Dims (bound, value), where ``bound`` is ``"lower"`` or ``"upper"``.

    Raises:
        DataError: There is no value, or the probability is not below 1.

    Example:
        >>> band = ecdf_band(100)
        >>> band.sel(value=0.5).to_numpy()
        array([0.33, 0.67])

    Source: T. Säilynoja, P.-C. Bürkner, A. Vehtari, Graphical Test for Discrete Uniformity and its
    Applications in Goodness-of-fit Evaluation and Multiple Sample Comparison (2022).
    """
    tail = _tail(n, probability) / 2
    law = stats.binom(n, _EDGES)  # type: ignore[attr-defined]
    bounds = np.stack([law.ppf(tail), law.isf(tail)]) / n
    coords = {"bound": ["lower", "upper"], "value": _EDGES}
    return xr.DataArray(bounds, coords, ("bound", "value"), attrs={"probability": probability, "n": n})


def uniform(values: xr.DataArray, dim: str, *, probability: float = 0.99) -> xr.Dataset:
    """Tests along one dim whether values are independent and uniform between 0 and 1.

    Args:
        values: Values between 0 and 1, such as probability integral transforms or scaled ranks.
        dim: The dim over which they should be uniform.
        probability: Of the band of :func:`ecdf_band`.

    Returns:
        For the other dims ``inside`` (whether the ECDF stays within the band), ``p_value`` (the share of
        simulated uniform ECDFs that stray as far) and ``distance`` (the largest difference from the line).
        With many of them, some lie outside by chance.

    Raises:
        DataError: A value is not between 0 and 1, or there is none.

    Example:
        >>> drawn = xr.DataArray(np.random.default_rng(0).random((200, 2)) ** [1, 3], dims=("draw", "which"))
        >>> uniform(drawn, "draw").inside.to_numpy()
        array([ True, False])
    """
    n = values.sizes[dim]
    share = ecdf(values, dim)
    strayed = xr.apply_ufunc(
        lambda f: _mass(np.rint(f * n).astype(np.int64), n), share, input_core_dims=[["value"]]
    )
    simulated = _simulated(n)
    beyond = xr.apply_ufunc(lambda mass: np.searchsorted(simulated, mass / _ROUNDED, side="right"), strayed)
    return xr.Dataset(
        {
            "inside": strayed >= _tail(n, probability),
            "p_value": (1 + beyond) / (1 + len(simulated)),
            "distance": xr.DataArray(abs(share - share.value)).max("value"),
        },
        attrs={"probability": probability, "n": n},
    )


def _counts_below(values: Float[np.ndarray, "... n"]) -> Int[np.ndarray, "... edge"]:
    if values.shape[-1] == 0 or not ((values >= 0) & (values <= 1)).all():
        raise DataError("uniform(values) takes values between 0 and 1; give PIT values or scaled ranks.")
    lead = values.shape[:-1]
    flat = values.reshape(-1, values.shape[-1])
    bins = np.minimum((flat * _BINS).astype(np.int64), _BINS - 1)
    position = bins + _BINS * np.arange(len(flat))[:, None]
    counts = np.bincount(position.ravel(), minlength=_BINS * len(flat)).reshape(len(flat), _BINS)
    return counts.cumsum(-1)[:, :-1].reshape(*lead, _BINS - 1)


def _mass(counts: Int[np.ndarray, "... edge"], n: int) -> Float[np.ndarray, ...]:
    """Two-sided binomial tail mass of the point that strays furthest."""
    # the same counts come again and again: the tails of each are summed once
    keys, where = np.unique(counts * len(_EDGES) + np.arange(len(_EDGES)), return_inverse=True)
    count, edge = np.divmod(keys, len(_EDGES))
    tails = np.minimum(special.bdtr(count, n, _EDGES[edge]), special.bdtrc(count - 1, n, _EDGES[edge]))
    return np.asarray(2 * tails[where].reshape(counts.shape).min(-1))


@lru_cache(maxsize=32)
def _simulated(n: int) -> np.ndarray:
    """Sorted masses of simulated ECDFs of n uniform values."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(n, np.full(_BINS, 1 / _BINS), size=_SIMULATIONS)[:, :-1].cumsum(1)
    return np.sort(_mass(counts, n))


def _tail(n: int, probability: float) -> float:
    """The pointwise tail mass whose band holds everywhere with the probability."""
    if n < 1 or not 0 < probability < 1:
        raise DataError(f"ecdf_band({n}, probability={probability}) needs a value, and 0 < probability < 1.")
    return float(np.quantile(_simulated(n), 1 - probability, method="lower")) * _ROUNDED
