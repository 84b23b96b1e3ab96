"""Variable genes: the perturbed ones, and those that vary most among the controls."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int
from scipy import sparse

from pyro_citevae.data.stored_rows import StoredRows
from pyro_citevae.errors import DataError

__all__ = ["judged", "most_variable"]

_MOST_JUDGED = 20_000  # controls in a file that say which genes vary


def judged(rows: StoredRows, unperturbed: np.ndarray) -> StoredRows:
    """The controls that say which genes vary: all of them, or of a file some, evenly spread.

    Args:
        rows: Values of the cells.
        unperturbed: Which cells are controls.
    """
    chosen = np.flatnonzero(unperturbed)
    if rows.in_file:
        chosen = chosen[:: max(1, -(-len(chosen) // _MOST_JUDGED))]
    return rows[chosen]


def most_variable(rows: StoredRows, own: np.ndarray, most: int) -> Int[np.ndarray, " kept"]:
    """Positions of the perturbed genes, and of those that vary most beyond Poisson in these cells.

    ``(var - mean) / mean^2`` at a common depth, among genes seen in 1 % of these cells or more: a negative
    binomial's inverse dispersion by moments.

    Args:
        rows: Controls.
        own: Which genes are perturbed.
        most: Number of genes to keep.

    Raises:
        DataError: There are too few cells, or no gene would be kept.
    """
    if most < 1:
        raise DataError(f"most_genes={most} keeps no gene; give a positive number.")
    cells = rows.tocsr().astype(float)
    if cells.shape[0] < 2:
        raise DataError(f"most_genes={most} needs two control cells at least; they say which genes vary.")
    depth = np.asarray(cells.sum(1)).ravel()
    if not (depth != 0).any():
        raise DataError(f"most_genes={most} needs control cells with counts; they say which genes vary.")
    common = np.median(depth) or np.median(depth[depth != 0])
    scaled = sparse.diags_array(common / np.maximum(depth, 1.0)) @ cells
    mean = np.asarray(scaled.mean(0)).ravel()
    variance = np.asarray(scaled.multiply(scaled).mean(0)).ravel() - mean**2
    seen = (np.asarray((cells > 0).mean(0)).ravel() >= 0.01) & (mean != 0)
    score = np.where(seen, (variance - mean) / np.where(seen, mean, 1.0) ** 2, -np.inf)
    score[own] = np.inf
    return np.sort(np.argsort(-score, kind="stable")[:most])
