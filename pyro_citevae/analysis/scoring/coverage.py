"""Coverage: do intervals hold the truth as often as they say, and how wide are they?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from pyro_citevae.arguments import names
from pyro_citevae.errors import DataError

__all__ = ["coverage"]

_GRID = tuple(np.linspace(0.05, 0.95, 19).round(2).tolist())
_FEWEST = 1000


def coverage(
    draws: xr.DataArray,
    truth: xr.DataArray,
    *,
    variance: xr.DataArray | None = None,
    probability: float | Sequence[float] = _GRID,
    by: Sequence[str] = (),
    seed: int = 0,
) -> xr.Dataset:
    """Share of true values inside the equal-tailed predictive intervals, and the intervals' mean width.

    Calibrated draws cover at the nominal rate; among calibrated ones the narrower are the better (sharper).
    The quantiles are such that the truth, were it one more draw, would be covered at that very rate.

    Args:
        draws: Predictive draws with dims (chain, draw, ...), such as an :class:`~pyro_citevae.infer.Effect`.
        truth: True or measured values with the other dims; NaN where none counts.
        variance: Sampling variance of the measured values, whose normal noise is added to the draws.
        probability: Nominal probability or probabilities.
        by: Dims to keep, such as ``["perturbation"]``; the others are averaged over.
        seed: Seed of the noise.

    Returns:
        ``coverage`` and ``width`` with dims (probability, ...), the first left out where one is asked for.
        NaN for a single draw, which claims no interval.

    Raises:
        DataError: The dims of draws and truth differ, no value counts, or a probability is out of range.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> truth = xr.DataArray(rng.normal(size=2000), dims="gene")
        >>> draws = xr.DataArray(rng.normal(size=(1, 200, 2000)), dims=("chain", "draw", "gene"))
        >>> coverage(draws, truth, probability=0.8).coverage.round(2).item()
        0.8

    Source: T. Gneiting, F. Balabdaoui, A. E. Raftery, Probabilistic Forecasts, Calibration and Sharpness
    (2007).
    """
    by = names(by, "coverage(by=...)")
    nominal = np.atleast_1d(np.asarray(probability, dtype=float))
    if not ((nominal > 0) & (nominal < 1)).all():
        raise DataError(f"coverage(probability={probability}) must lie between 0 and 1.")
    drawn, true, noise = xr.align(
        xr.DataArray(draws), truth, truth * 0 if variance is None else variance, join="inner"
    )
    dims = tuple(true.dims)
    if {*drawn.dims} != {"chain", "draw", *dims} or not true.notnull().any():
        raise DataError(
            "coverage(draws, truth) needs draws with dims (chain, draw, ...), and a truth with the others "
            f"and a value that counts; found {tuple(draws.dims)} and {tuple(truth.dims)}."
        )
    values = drawn.transpose("chain", "draw", *dims).to_numpy().reshape(-1, *true.shape)
    if variance is not None and len(values) > 1:
        values = np.concatenate([values] * max(1, _FEWEST // len(values)))
        scale = np.sqrt(noise.transpose(*dims).to_numpy())
        values = values + np.random.default_rng(seed).normal(size=values.shape) * scale
    tails = np.concatenate([(1 - nominal) / 2, (1 + nominal) / 2])
    lower, upper = np.split(np.quantile(values, tails, axis=0, method="weibull"), 2)
    shape = ("probability", *dims)
    inside = xr.DataArray((lower <= true.to_numpy()) & (true.to_numpy() <= upper), dims=shape)
    width = xr.DataArray(upper - lower, dims=shape)
    if len(values) < 2:
        inside, width = inside * np.nan, width * np.nan
    found = xr.Dataset({"coverage": inside, "width": width}, {"probability": nominal, **true.coords})
    found = found.where(true.notnull()).mean([dim for dim in dims if dim not in by])
    return found.squeeze("probability") if np.ndim(probability) == 0 else found
