"""Measured effects, each with what is known of its noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from pyro_citevae.analysis.scoring.copied_cells import of_the_same_counts, of_the_same_name
from pyro_citevae.arguments import Names, Number, number
from pyro_citevae.data import pseudobulk
from pyro_citevae.data.shared_genes import on_panel, shared_panel
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError, few

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
    time: Number,
    controls: Trajectories | None = None,
    genes: Names | None = None,
) -> Measurement:
    r"""Measures one effect against the controls of the same time, and of the same contexts.

    ``delta = b_group - b_reference`` with ``b = log(1 + total * sum_n x_ng / sum_ng x_ng)``. With ``genes``,
    the group and its reference are both summed up over these genes alone, and scaled to what these hold of
    the total among all the controls (:func:`~pyro_citevae.data.shared_genes.shared_panel`): a gene that one
    side lacks cannot shift the others.

    Args:
        data: The perturbed cells.
        perturbation: Their label, members in any order.
        time: Their time.
        controls: Where the controls are, those of other contexts left out; None for ``data`` itself.
        genes: Genes that both have; None for all of the schema.

    Returns:
        The measurement, on these genes in the order of the schema.

    Raises:
        DataError: There are no such cells, no controls at that time and in their contexts, or no counts of
            the genes in controls.

    Example:
        >>> from pyro_citevae import simulate
        >>> data = simulate(n_cells=300, n_genes=8, n_perturbations=2, n_steps=2).data
        >>> measure(data, "gene_0", 2.0, genes=data.schema.genes[:5]).delta.shape
        (5,)
    """
    source, time = (data if controls is None else controls), number(time, "measure(time=...)")
    if genes is not None:
        panel = shared_panel(source, genes)
        data, source = on_panel(data, panel), on_panel(source, panel)
    group = data.select(perturbation, time)
    reference = _of_their_contexts(source.select(data.schema.control, time), group)
    schedule = data.schema.schedule(perturbation)
    label = schedule.label(data.schema.control)
    if group.n_cells == 0:
        raise DataError(f"no cells of '{label}' at {time:g} to measure; name a label and a time of the data.")
    if reference.n_cells == 0:
        raise DataError(
            f"no cells of '{data.schema.control}' at {time:g}{_said(group)} to measure '{label}' against; "
            "hand in some with controls=, or compare perturbations with each other, as in effect(do('A'), "
            "versus=do('B'))."
        )
    own = list(schedule.tokens)
    keep = ~np.isin(np.array(data.schema.genes), own)
    # a gene without a count in either group has an effect of zero by definition, not by measurement
    keep &= (group.values.toarray() != 0).any(0) | (reference.values.toarray() != 0).any(0)
    variance = pseudobulk.jackknife_variance(group) + pseudobulk.jackknife_variance(reference)
    halves = pseudobulk.split_half(group, reference, keep)
    return Measurement(label, time, pseudobulk.effect(group, reference), variance, keep, halves)


def _of_their_contexts(controls: Trajectories, group: Trajectories) -> Trajectories:
    """The controls of those contexts that a group has, by name; all of them where the data name none."""
    if not (controls.schema.contexts and group.schema.contexts):
        return controls
    known = np.array(controls.schema.contexts)[controls.context[controls.row_cell]]
    return controls.rows(np.isin(known, _contexts(group)))


def _contexts(group: Trajectories) -> list[str]:
    """Names of the contexts that cells of a group are in."""
    return [group.schema.contexts[one] for one in np.unique(group.context)] if group.schema.contexts else []


def _said(group: Trajectories) -> str:
    """In which contexts a group is, for a sentence."""
    contexts = _contexts(group)
    return f" in {few(contexts)}" if contexts else ""


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

    Names do not tell, since cells of two lanes may share a barcode and a copy may have names of its own: the
    values do, on the genes that both data sets have. Refused is a held-out observation with the name, the
    time and the values of a training one; and one with its label, its time and its counts, where these are
    too many to be equal by chance (:mod:`pyro_citevae.analysis.scoring.copied_cells`).

    Args:
        train: The training cells.
        truth: The held-out cells.

    Raises:
        DataError: A held-out observation is among the training ones.

    Example:
        >>> from pyro_citevae import simulate
        >>> data = simulate(n_cells=300, n_perturbations=2, n_steps=2).data
        >>> require_unseen(*data.hold_out(times=[2]))
    """
    named = of_the_same_name(train, truth)
    if len(named):
        name = truth.names[truth.row_cell[named[0, 0]]]
        raise DataError(f"cell '{name}' was in training and cannot be scored; hold it out and fit again.")
    copied = of_the_same_counts(train, truth)
    if len(copied):
        name, known = (
            side.names[side.row_cell[row]] for side, row in zip((truth, train), copied[0], strict=True)
        )
        raise DataError(
            f"cell '{name}' has every count of '{known}', which was in training, and cannot be scored; hold "
            "it out and fit again."
        )


def reproducible(measurements: Sequence[Measurement]) -> tuple[str, ...]:
    """Perturbations whose halves agree (split-half above 0.3), the most reproducible first."""
    ordered = sorted(measurements, key=lambda one: -one.split_half)
    return tuple(one.perturbation for one in ordered if one.split_half > _REPRODUCIBLE_ABOVE)
