"""Predictive checks: what was measured, beside what the fitted program would have measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from scipy import special, stats

from pyro_citevae.analysis.criticism.replication import (
    MOST_VALUES,
    Replicate,
    ReplicatedCells,
    measured,
    replicates,
    require_cells,
)
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.infer.predictive import Predictive

__all__ = ["predictive_check"]

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_FALSE_DISCOVERIES = 0.05


def predictive_check(
    posterior: Predictive,
    data: Trajectories,
    *,
    replicate: ReplicatedCells = "population",
    prior: bool = False,
    draws: int = 100,
    seed: int = 0,
    most_values: int = MOST_VALUES,
) -> xr.DataTree:
    """Compares statistics T of the data with those of replicated data.

    ``p = 2 min(P(T(x_rep) >= T(x)), P(T(x_rep) <= T(x)))``, with the data counted among the replicates, so
    that p is ``2 / (draws + 1)`` at least. Cells that the model was fitted to make p conservative (nearer to
    1), held-out cells do not. The library size is given, so its row says by how much the emission widens it.

    =========================  =========================================================================
    statistic                  of the cells
    =========================  =========================================================================
    zero_fraction              share of zeros of each gene (counts only)
    mean, variance             of each gene: the relation of the one to the other
    library_size               quantiles of the summed counts of an observation (counts only)
    differentially_expressed   number of genes that differ between a perturbation and the controls of the
                               same time: Welch's test on ``log(1 + total x_g / sum_g x_g)`` (real values
                               as they are), at a false discovery rate of 5 % by Benjamini and Hochberg;
                               NaN where either has fewer than two cells
    =========================  =========================================================================

    Args:
        posterior: A fitted model, or an ensemble, whose members are chains.
        data: The cells.
        replicate: ``"population"`` for new cells under the same schedules, at the same times and library
            sizes; ``"cells"`` for the same cells with their abducted states, which checks the emission alone.
        prior: Draw the global sites from their prior; parameters stay fitted.
        draws: Number of replicated data sets, of each member of an ensemble.
        seed: Seed of every draw.
        most_values: Draws x cells x genes that are held at once, which bounds the memory.

    Returns:
        Groups ``observed_data``, ``posterior_predictive`` (or ``prior_predictive``) with dims (chain, draw)
        in front, and ``p_value``. Dims gene, probability (of a quantile),
        perturbation and time.

    Raises:
        DataError: The data are empty or of another panel, or an argument is not as above.
        ModelError: The same cells are asked for from the prior.

    Example:
        >>> import pyro_citevae as cv
        >>> from pyro_citevae.guides import MeanField
        >>> from pyro_citevae.models import StaticShift
        >>> data = cv.simulate(n_cells=100, n_genes=8).data
        >>> model = StaticShift(data.schema, n_programs=2, hidden=0)
        >>> posterior = cv.fit(model, MeanField(model, hidden=4), data, max_epochs=1, progress=False)
        >>> check = predictive_check(posterior, data, draws=5)
        >>> check["p_value"]["zero_fraction"].sizes
        Frozen({'gene': 8})

    Source: A. Gelman, X.-L. Meng, H. Stern, Posterior Predictive Assessment of Model Fitness via Realized
    Discrepancies (1996).
    """
    require_cells(posterior, data)
    groups = _Groups.of(data)
    options: dict[str, Any] = {"draws": draws, "prior": prior, "seed": seed, "most_values": most_values}
    made = replicates(posterior, data, cells=replicate, **options)
    chains = [_chain(blocks, groups) for _, blocks in groupby(made, lambda one: one.chain)]
    drawn = xr.concat(chains, "chain").transpose("chain", "draw", ...)
    drawn = drawn.assign_coords(chain=np.arange(len(chains)), draw=np.arange(draws))
    name = "prior_predictive" if prior else "posterior_predictive"
    truth = _statistics(measured(data, most_values), groups).isel(draw=0, drop=True)
    tree = xr.DataTree.from_dict({"observed_data": truth, name: drawn, "p_value": _p_value(drawn, truth)})
    tree.attrs.update(replicate=replicate, false_discovery_rate=_FALSE_DISCOVERIES)
    return tree


def _chain(blocks: Iterable[Replicate], groups: _Groups) -> xr.Dataset:
    """The statistics of one member's draws."""
    drawn = [_statistics(block, groups) for _, block in groupby(blocks, lambda one: one.draws.start)]
    return xr.concat(drawn, "draw")


def _p_value(drawn: xr.Dataset, observed: xr.Dataset) -> xr.Dataset:
    n = drawn.sizes["chain"] * drawn.sizes["draw"]
    above = (drawn >= observed).sum(("chain", "draw"))
    below = (drawn <= observed).sum(("chain", "draw"))
    tail = (1 + xr.where(above < below, above, below)) / (1 + n)
    return (2 * tail).clip(max=1.0).where(observed.notnull())


@dataclass(frozen=True)
class _Groups:
    """Which observation belongs to which perturbation and time, and how they are made comparable."""

    genes: tuple[str, ...]
    labels: tuple[str, ...]
    times: tuple[float, ...]
    group: Int[np.ndarray, " observation"]
    counts: bool
    total: float

    @classmethod
    def of(cls, data: Trajectories) -> _Groups:
        labels = (data.schema.control, *data.perturbations())
        times, time = np.unique(data.row_times, return_inverse=True)
        position = {label: i for i, label in enumerate(labels)}
        label = np.array([position[one] for one in data.row_labels], dtype=np.int64)
        depth = data.stored.sum(1, dtype=float)
        return cls(
            genes=data.schema.genes,
            labels=labels,
            times=tuple(times.tolist()),
            group=label * len(times) + time,
            counts=data.schema.values == "counts",
            total=float(np.median(depth)),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Number of labels, the control first, and of times."""
        return len(self.labels), len(self.times)


def _statistics(blocks: Iterable[Replicate], groups: _Groups) -> xr.Dataset:
    """The statistics of each draw, summed up over blocks of observations."""
    sums: _Sums | None = None
    for block in blocks:
        sums = _Sums(len(block.x), groups) if sums is None else sums
        sums.add(block)
    assert sums is not None  # noqa: S101 - there is an observation, so there is a block
    return sums.statistics()


@dataclass
class _Sums:
    """Sums over observations, from which the statistics of each draw follow."""

    n_draws: int
    groups: _Groups
    arrays: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        D, G, N = self.n_draws, len(self.groups.genes), len(self.groups.group)
        P, T = self.groups.shape
        shapes: dict[str, tuple[int, ...]] = {"zero": (D, G), "x": (D, G), "xx": (D, G), "depth": (D, N)}
        shapes |= {"y": (D, P * T, G), "yy": (D, P * T, G)}
        self.arrays = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}

    def add(self, block: Replicate) -> None:
        """Adds a block of observations."""
        x = block.x.double().cpu()
        depth = x.sum(-1)
        y = x
        if self.groups.counts:
            y = torch.log1p(self.groups.total * x / depth.clamp(min=1.0)[..., None])
        group = torch.from_numpy(self.groups.group[block.rows])
        self.arrays["zero"] += (x == 0).sum(1)
        self.arrays["x"] += x.sum(1)
        self.arrays["xx"] += x.square().sum(1)
        self.arrays["depth"][:, block.rows] = depth
        self.arrays["y"].index_add_(1, group, y)
        self.arrays["yy"].index_add_(1, group, y.square())

    def statistics(self) -> xr.Dataset:
        """The statistics, with dims (draw, ...)."""
        sums = {name: value.numpy() for name, value in self.arrays.items()}
        n = len(self.groups.group)
        mean = sums["x"] / n
        found = {
            "mean": (("draw", "gene"), mean),
            "variance": (("draw", "gene"), sums["xx"] / n - mean**2),
            "differentially_expressed": (("draw", "perturbation", "time"), self._expressed(sums)),
        }
        coords: dict[str, object] = {
            "gene": list(self.groups.genes),
            "perturbation": list(self.groups.labels[1:]),
            "time": list(self.groups.times),
        }
        if self.groups.counts:
            found["zero_fraction"] = (("draw", "gene"), sums["zero"] / n)
            found["library_size"] = (
                ("draw", "probability"),
                np.quantile(sums["depth"], _QUANTILES, axis=1).T,
            )
            coords["probability"] = list(_QUANTILES)
        return xr.Dataset(found, coords)

    def _expressed(self, sums: dict[str, np.ndarray]) -> Float[np.ndarray, "draw perturbation time"]:
        """Number of genes that differ from the controls of the same time, by Welch's test."""
        P, T = self.groups.shape
        n = np.bincount(self.groups.group, minlength=P * T).reshape(P, T, 1)
        total, squares = (sums[name].reshape(self.n_draws, P, T, -1) for name in ("y", "yy"))
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = total / n
            error = (squares / n - mean**2).clip(min=0.0) / (n - 1)  # squared standard error of the mean
            both = error[:, 1:] + error[:, :1]
            freedom = both**2 / (error[:, 1:] ** 2 / (n[1:] - 1) + error[:, :1] ** 2 / (n[:1] - 1))
            t = abs(mean[:, 1:] - mean[:, :1]) / np.sqrt(both)
        p = np.where(both > 0, 2 * special.stdtr(freedom, -t), 1.0)
        known = (n[1:, :, 0] > 1) & (n[:1, :, 0] > 1)
        p = np.where(known[..., None], p, 1.0)
        found = (stats.false_discovery_control(p, axis=-1) <= _FALSE_DISCOVERIES).sum(-1)
        return np.where(known, found, np.nan)
