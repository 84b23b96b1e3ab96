"""Predicted and measured cells as the two h5ad files that cell-eval2 compares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError

__all__ = ["PERTURBATION", "cells_for_cell_eval2", "write_pair"]

PERTURBATION = "target"


def write_pair(
    predicted: AnnData, measured: Trajectories, time: float, folder: str | Path
) -> tuple[Path, Path]:
    """Writes ``predicted.h5ad`` and ``measured.h5ad``: integer counts, labels in ``obs["target"]``.

    Both hold the perturbations that both have at the time, and the measured control cells, from which the
    competition's rules take the control on either side.

    Args:
        predicted: What ``predict`` returned.
        measured: Measured cells, controls of the same time among them.
        time: The time to compare.
        folder: A folder that exists.

    Returns:
        The two paths.

    Raises:
        DataError: No perturbation is in both, or no control was measured.
    """
    schema = measured.schema
    now = measured.select(time=time)
    labels = predicted.obs["perturbation"].to_numpy()
    at = predicted.obs["time"].to_numpy() == time
    both = sorted(set(now.perturbations()) & set(labels[at].tolist()))
    controls = now.select(schema.control)
    if not both or controls.n_cells == 0:
        raise DataError(
            f"cell-eval2 needs a perturbation that is both predicted and measured at {time:g}, and measured "
            "controls; name one in predict(...)."
        )
    rows = at & np.isin(labels, both)
    truth = now.rows(np.isin(now.row_labels, [*both, schema.control]))
    base = np.full(controls.n_observations, schema.control)
    made = sparse.vstack([sparse.csr_matrix(predicted.X)[rows], controls.stored.tocsr()]).tocsr()
    paths = Path(folder) / "predicted.h5ad", Path(folder) / "measured.h5ad"
    made_cells = cells_for_cell_eval2(made, np.concatenate([labels[rows], base]), schema.genes)
    made_cells.write_h5ad(paths[0])
    cells_for_cell_eval2(truth.stored.tocsr(), truth.row_labels, schema.genes).write_h5ad(paths[1])
    return paths


def cells_for_cell_eval2(
    x: sparse.csr_matrix, labels: np.ndarray, genes: Sequence[str], column: str = PERTURBATION
) -> AnnData:
    """Counts in the form that cell-eval2 reads: float32 values, labels in one column of ``obs``.

    Args:
        x: Counts, cells x genes.
        labels: What each cell got; the control's label for a control cell.
        genes: Names of the genes.
        column: Name of the column with the labels.

    Example:
        >>> made = cells_for_cell_eval2(sparse.csr_matrix([[1, 0]]), np.array(["A"]), ["A", "B"])
        >>> made.obs["target"].tolist()
        ['A']
    """
    obs = pd.DataFrame({column: labels.astype(str)}, index=[f"cell_{i}" for i in range(x.shape[0])])
    return AnnData(sparse.csr_matrix(x, dtype=np.float32), obs=obs, var=pd.DataFrame(index=list(genes)))
