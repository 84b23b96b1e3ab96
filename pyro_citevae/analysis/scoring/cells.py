r"""Scores of predicted cells against measured ones: distances of distributions, and differential expression.

Counts are compared as ``y = log(1 + total x_g / sum_g x_g)``, real values as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import sparse, stats
from scipy.spatial.distance import cdist

from pyro_citevae.analysis.scoring.measurement import Measurement
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "Calls",
    "cell_rows",
    "differential_expression",
    "direction_agreement",
    "energy_distance",
    "maximum_mean_discrepancy",
    "normalised",
    "on_measured_genes",
    "overlap",
]

_FALSE_DISCOVERIES = 0.05


def normalised(x: Float[np.ndarray, "cell gene"], schema: Schema) -> Float[np.ndarray, "cell gene"]:
    """``log(1 + total x_g / sum_g x_g)`` of counts, at the schema's common total; real values as they are."""
    if schema.values == "real":
        return x
    return np.asarray(np.log1p(schema.panel_total * x / np.maximum(x.sum(1, keepdims=True), 1.0)))


def on_measured_genes(predicted: AnnData, schema: Schema) -> AnnData:
    """Predicted cells on the genes that were measured, before anything is divided by a sum over genes.

    Args:
        predicted: What ``predict`` returned.
        schema: That of the measured cells.

    Raises:
        DataError: A measured gene was not predicted.
    """
    names = predicted.var_names
    if tuple(names) == schema.genes:
        return predicted
    lacking = [gene for gene in schema.genes if gene not in names]
    if lacking:
        raise DataError(
            f"{len(lacking)} of the {schema.n_genes} measured genes were not predicted, such as "
            f"'{lacking[0]}'; measure on the genes that both have, by on_panel(data, panel)."
        )
    return predicted[:, list(schema.genes)]


def energy_distance(x: Float[np.ndarray, "first dim"], y: Float[np.ndarray, "second dim"]) -> float:
    """``E = 2 E|X - Y| - E|X - X'| - E|Y - Y'|``, in the unit of the values; 0 for equal laws.

    Pairs of a cell with itself do not count, so that the mean over samples of one law is 0; it may be below.

    Example:
        >>> energy_distance(np.array([[0.0], [2.0]]), np.array([[1.0], [3.0]]))
        -1.0

    Source: G. J. Székely, M. L. Rizzo, Energy Statistics (2013); S. Peidli et al., scPerturb (2024).
    """
    return float(2 * cdist(x, y).mean() - _within(cdist(x, x)) - _within(cdist(y, y)))


def maximum_mean_discrepancy(x: Float[np.ndarray, "first dim"], y: Float[np.ndarray, "second dim"]) -> float:
    r"""``MMD^2 = E k(X, X') + E k(Y, Y') - 2 E k(X, Y)``; 0 for equal laws.

    Pairs of a cell with itself do not count. The kernel is ``mean_c exp(-|a - b|^2 / (2 c h^2))`` over c in
    (1/4, 1, 4), with h the median distance between the pooled cells.

    Source: A. Gretton et al., A Kernel Two-Sample Test (2012).
    """
    xx, yy, xy = (cdist(a, b, "sqeuclidean") for a, b in ((x, x), (y, y), (x, y)))
    pooled = np.concatenate([one[np.triu_indices(len(one), 1)] for one in (xx, yy)] + [xy.ravel()])
    width = max(float(np.median(pooled)), 1e-12)
    kxx, kyy, kxy = (
        np.mean([np.exp(-one / (2 * c * width)) for c in (0.25, 1.0, 4.0)], axis=0) for one in (xx, yy, xy)
    )
    return float(_within(kxx) + _within(kyy) - 2 * kxy.mean())


def _within(pairs: Float[np.ndarray, "cell cell"]) -> float:
    """Mean over the pairs of different cells."""
    n = len(pairs)
    return float((pairs.sum() - np.trace(pairs)) / (n * (n - 1))) if n > 1 else float("nan")


@dataclass(frozen=True)
class Calls:
    """Genes called differentially expressed against the control.

    Attributes:
        called: Whether a gene is, at a false discovery rate of 5 %.
        change: Difference of the means of the normalised values.
        p_value: Two-sided p-value of each gene, not adjusted.
    """

    called: Bool[np.ndarray, " gene"]
    change: Float[np.ndarray, " gene"]
    p_value: Float[np.ndarray, " gene"]


def differential_expression(
    group: Float[np.ndarray, "first gene"], control: Float[np.ndarray, "second gene"]
) -> Calls:
    """Wilcoxon's rank-sum test of each gene, with correction for ties, adjusted by Benjamini and Hochberg.

    Args:
        group: Normalised values of the perturbed cells.
        control: Those of the control cells.

    Source: F. Wilcoxon (1945); Y. Benjamini, Y. Hochberg (1995), by scipy.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        p = stats.mannwhitneyu(group, control, axis=0, method="asymptotic").pvalue  # type: ignore[attr-defined]
    p = np.where(np.isfinite(p), p, 1.0)  # a gene that is the same in every cell
    called = stats.false_discovery_control(p) <= _FALSE_DISCOVERIES
    return Calls(called, group.mean(0) - control.mean(0), p)


def overlap(predicted: Calls, measured: Calls) -> float:
    """Share of the n genes called in the measured cells that are among the predicted calls.

    Where more than n are predicted, the n with the largest predicted ``|change|`` count. 1 is perfect; NaN
    where nothing is called in the measured cells.

    Source: Y. H. Roohani et al., Virtual Cell Challenge: Toward a Turing Test for the Virtual Cell (2025).
    """
    n = int(measured.called.sum())
    if n == 0:
        return float("nan")
    strength = np.where(predicted.called, np.abs(predicted.change), -1.0)
    chosen = np.argsort(-strength, kind="stable")[: min(n, int(predicted.called.sum()))]
    return float(measured.called[chosen].sum() / n)


def direction_agreement(predicted: Calls, measured: Calls) -> float:
    """Share of the genes called in the measured cells whose predicted change has their sign.

    A change of exactly zero is half right; 0.5 is chance; NaN where nothing is called in the measured cells.
    """
    if not measured.called.any():
        return float("nan")
    signs = np.sign(predicted.change[measured.called]) * np.sign(measured.change[measured.called])
    return float(0.5 + 0.5 * np.mean(signs))


def cell_rows(
    name: str,
    predicted: AnnData,
    measurement: Measurement,
    group: Trajectories,
    controls: Trajectories,
    most_cells: int = 300,
) -> pd.DataFrame:
    """Scores predicted cells of one perturbation at one time on measured ones, own gene left out.

    Energy distance and maximum mean discrepancy of the normalised values, and the overlap and direction of
    the calls of differential expression. Predicted calls are against the predicted control, so ``do()`` must
    be among the predicted schedules. Predicted cells are brought to the genes of the measured ones first.

    Args:
        name: Name of the predictor.
        predicted: What ``predict`` returned for the perturbation, ``do()`` and the time.
        measurement: What was measured: it says the perturbation, its time and the genes that count.
        group: The measured perturbed cells.
        controls: The measured control cells of the same time.
        most_cells: Cells beyond this number are thinned evenly, in each of the four groups.

    Returns:
        Columns ``predictor, perturbation, time, score, value``.

    Raises:
        DataError: The perturbation, the control or a gene was not predicted, or the cells and the measurement
            are not on the same genes.
    """
    schema, one = group.schema, measurement
    if controls.schema.genes != schema.genes or len(one.keep) != schema.n_genes:
        raise DataError(
            f"cell_rows(...) has '{one.perturbation}' measured on {len(one.keep)} genes, a group of "
            f"{schema.n_genes} and controls of {controls.schema.n_genes}; bring all to the same genes by "
            "on_panel(data, panel)."
        )
    predicted = on_measured_genes(predicted, schema)
    now = predicted.obs["time"].to_numpy() == one.time
    labels = predicted.obs["perturbation"].to_numpy()
    cells = {}
    for label in (one.perturbation, schema.control):
        rows = np.flatnonzero(now & (labels == label))
        if not len(rows):
            raise DataError(
                f"'{name}' predicted no cell of '{label}' at {one.time:g}; name it in predict(...)."
            )
        rows = rows[:: -(-len(rows) // most_cells)]
        cells[label] = _compared(sparse.csr_matrix(predicted.X)[rows].toarray(), schema, one.keep)
    true, base = (
        _compared(part.thinned(most_cells).values.toarray(), schema, one.keep) for part in (group, controls)
    )
    made, start = cells[one.perturbation], cells[schema.control]
    calls = differential_expression(made, start), differential_expression(true, base)
    found = {
        "energy_distance": energy_distance(made, true),
        "mmd": maximum_mean_discrepancy(made, true),
        "de_overlap": overlap(*calls),
        "de_direction": direction_agreement(*calls),
    }
    frame = pd.DataFrame({"score": list(found), "value": list(found.values())})
    return frame.assign(predictor=name, perturbation=one.perturbation, time=one.time)


def _compared(
    x: np.ndarray, schema: Schema, keep: Bool[np.ndarray, " all"]
) -> Float[np.ndarray, "cell gene"]:
    return normalised(x.astype(float), schema)[:, keep]
