"""Simulated screens of the tests: one way to make them, and to write them as a file of the field has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

import pyro_citevae as cv
from pyro_citevae.guides import MeanField

__all__ = ["as_anndata", "simulated", "unfitted"]

_SIZES = {"n_genes": 7, "n_programs": 2, "n_perturbations": 3, "n_steps": 3, "seed": 3}


def simulated(design: str = "time course", values: str = "counts", **sizes: Any) -> cv.Trajectories:
    """A screen of 60 cells and seven genes under three perturbations over three steps, or of other sizes."""
    return cv.simulate(**{"n_cells": 60, **_SIZES, **sizes, "design": design, "values": values}).data


def as_anndata(data: cv.Trajectories, **columns: Any) -> AnnData:
    """Cells as an AnnData with ``obs`` of perturbations, times, and further columns."""
    obs = {"perturbation": data.row_labels.astype(str), "time": data.row_times, **columns}
    X = sparse.csr_matrix(data.values, dtype=np.float32)
    return AnnData(X=X, obs=pd.DataFrame(obs, data.names), var=pd.DataFrame(index=list(data.schema.genes)))


def unfitted(model: cv.LatentDynamics) -> cv.Posterior:
    """The model with a guide, as they are."""
    return cv.Posterior(model.eval(), MeanField(model, hidden=4).eval(), pd.DataFrame(), record={})
