"""Calibration: do intervals hold the truth as often as they say, and do cells look as predicted?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from pyro_citevae.analysis.replication import ReplicatedCells, replicates
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError
from pyro_citevae.infer.idata import observed_groups
from pyro_citevae.infer.predictive import Predictive

__all__ = ["coverage", "randomised_pit"]

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


def randomised_pit(
    posterior: Predictive,
    data: Trajectories,
    *,
    replicate: ReplicatedCells = "population",
    draws: int = 200,
    most_cells: int = 1000,
    seed: int = 0,
) -> xr.DataArray:
    """Probability integral transform of each observed value under its predictive distribution.

    ``u = P(x_rep < x) + v P(x_rep = x)`` with v uniform, by replicated values; v breaks the ties of counts.
    The observed value is counted among the replicated ones, so that u is exactly uniform, for every number
    of draws, if it is one more draw of the program.

    Over the cells, the values of a gene are then uniform, and independent but for what uncertain global sites
    share out: ``uniform(pit, "cell")`` tests that gene by gene. The values of a cell's genes depend on each
    other. For plots of ArviZ that take one dim, ``pit.stack(value=("cell", "gene"), create_index=False)``.

    Args:
        posterior: A fitted model, or an ensemble.
        data: The cells; held-out ones for an honest test.
        replicate: ``"population"`` for new cells under the same schedules, at the same times and library
            sizes; ``"cells"`` for the same cells with their abducted states.
        draws: Number of replicated values, of each member of an ensemble.
        most_cells: Cells beyond this number are thinned evenly.
        seed: Seed of every draw.

    Returns:
        Dims (cell, gene), one row an observation, with the coords ``perturbation`` and ``observed_time``.

    Raises:
        DataError: The data are empty or of another panel, or an argument is not as above.

    Source: C. Czado, T. Gneiting, L. Held, Predictive Model Assessment for Count Data (2009).
    """
    data = data.thinned(most_cells)
    below = np.zeros((data.n_observations, data.schema.n_genes), dtype=np.int64)
    equal = np.zeros_like(below)
    for block in replicates(posterior, data, draws=draws, cells=replicate, seed=seed):
        made, true = block.x.cpu().numpy(), data.values[block.rows].toarray()
        below[block.rows] += (made < true).sum(0)
        equal[block.rows] += (made == true).sum(0)
    v = np.random.default_rng(seed).random(below.shape)
    known = observed_groups(data)["constant_data"][["perturbation", "observed_time"]]
    return xr.DataArray(
        (below + v * (1 + equal)) / (1 + draws * len(posterior.members)),
        {**known.coords, **known.data_vars, "gene": list(data.schema.genes)},
        ("cell", "gene"),
        name="pit",
        attrs={"replicate": replicate, "draws": draws},
    )
