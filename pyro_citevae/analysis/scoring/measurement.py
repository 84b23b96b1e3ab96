"""Measured effects, each with what is known of its noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from pyro_citevae.data import pseudobulk
from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError

__all__ = ["Measurement", "measure", "measured_effects", "reproducible", "require_unseen"]

_REPRODUCIBLE_ABOVE = 0.3


@dataclass(frozen=True)
class Measurement:
    """A measured effect with what is known of its noise.

    Attributes:
        perturbation: Label of the perturbed group.
        time: Time of the group and of its controls.
        delta: The effect against the controls of the same time.
        variance: Sampling variance of the effect, by the jackknife of both groups.
        keep: Genes that count: all but the perturbed ones and those without a count in either group.
        split_half: Correlation of the effect between halves of the cells.
    """

    perturbation: str
    time: float
    delta: Float[np.ndarray, " gene"]
    variance: Float[np.ndarray, " gene"]
    keep: Bool[np.ndarray, " gene"]
    split_half: float

    @property
    def reliability(self) -> float:
        """Share of the effect's variance that is no noise, ``R = 2 r / (1 + r)`` (Spearman 1910, Brown)."""
        r = max(self.split_half, 0.0)
        return 2 * r / (1 + r)


def measure(
    data: Trajectories,
    perturbation: str,
    time: float,
    controls: Trajectories | None = None,
    genes: Sequence[str] | None = None,
) -> Measurement:
    """Measures one effect against the controls of the same time.

    Args:
        data: The perturbed cells.
        perturbation: Their label.
        time: Their time.
        controls: Where the controls are; None for ``data`` itself.
        genes: Genes that were measured; None for all of the schema.

    Raises:
        DataError: There are no such cells, or no controls at that time.
    """
    group = data.select(perturbation, time)
    reference = (data if controls is None else controls).select(data.schema.control, time)
    if min(group.n_cells, reference.n_cells) == 0:
        raise DataError(f"no cells of '{perturbation}' and '{data.schema.control}' at {time:g} to measure.")
    own = list(Schedule.parse(perturbation, data.schema.control).tokens)
    keep = ~np.isin(np.array(data.schema.genes), own)
    if genes is not None:
        keep &= np.isin(np.array(data.schema.genes), list(genes))
    # a gene without a count in either group has an effect of zero by definition, not by measurement
    keep &= (group.values.toarray() != 0).any(0) | (reference.values.toarray() != 0).any(0)
    variance = pseudobulk.jackknife_variance(group) + pseudobulk.jackknife_variance(reference)
    halves = pseudobulk.split_half(group, reference, keep)
    return Measurement(perturbation, time, pseudobulk.effect(group, reference), variance, keep, halves)


def measured_effects(measurements: Sequence[Measurement], genes: Sequence[str] | None = None) -> xr.Dataset:
    """Measured effects side by side, for :func:`~pyro_citevae.analysis.coverage` and the like.

    Args:
        measurements: What was measured, each perturbation once a time.
        genes: Names of the genes; None for their order alone.

    Returns:
        ``effect`` and ``variance`` with dims (perturbation, time, gene); NaN for the perturbed gene itself,
        and where nothing was measured.
    """
    rows = [
        xr.Dataset({"effect": ("gene", one.delta), "variance": ("gene", one.variance)})
        .where(xr.DataArray(one.keep, dims="gene"))
        .expand_dims(perturbation=[one.perturbation], time=[one.time])
        for one in measurements
    ]
    found: xr.Dataset = xr.combine_by_coords(rows, join="outer")  # type: ignore[assignment]
    return found if genes is None else found.assign_coords(gene=list(genes))


def require_unseen(train: Trajectories, truth: Trajectories) -> None:
    """Refuses to score observations that were in training.

    Raises:
        DataError: A held-out observation is among the training ones.
    """
    seen = set(zip(train.names[train.row_cell], train.row_step.tolist(), strict=True))
    for name, step in zip(truth.names[truth.row_cell], truth.row_step.tolist(), strict=True):
        if (name, step) in seen:
            raise DataError(f"cell '{name}' was in training and cannot be scored; hold it out and fit again.")


def reproducible(measurements: Sequence[Measurement]) -> tuple[str, ...]:
    """Perturbations whose halves agree (split-half above 0.3), the most reproducible first."""
    ordered = sorted(measurements, key=lambda one: -one.split_half)
    return tuple(one.perturbation for one in ordered if one.split_half > _REPRODUCIBLE_ABOVE)
