"""Predicted and measured cells as the two h5ad files that cell-eval2 compares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError

__all__ = ["PERTURBATION", "write_pair"]

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
    _cells(made, np.concatenate([labels[rows], base]), schema.genes).write_h5ad(paths[0])
    _cells(truth.stored.tocsr(), truth.row_labels, schema.genes).write_h5ad(paths[1])
    return paths


def _cells(x: sparse.csr_matrix, labels: np.ndarray, genes: tuple[str, ...]) -> AnnData:
    obs = pd.DataFrame({PERTURBATION: labels.astype(str)}, index=[f"cell_{i}" for i in range(x.shape[0])])
    return AnnData(sparse.csr_matrix(x, dtype=np.float32), obs=obs, var=pd.DataFrame(index=list(genes)))
