"""The two calls that open a screen for training: all of it in memory, and a part at a time from disk."""

from __future__ import annotations

from pathlib import Path

import anndata

import pyro_citevae as cv

__all__ = ["from_disk", "in_memory"]


def in_memory(path: Path, n_steps: int = 3) -> cv.Trajectories:
    """Reads the whole file."""
    adata = anndata.read_zarr(path) if path.suffix == ".zarr" else anndata.read_h5ad(path)
    return cv.Trajectories.from_anndata(adata, perturbation="perturbation", n_steps=n_steps)


def from_disk(path: Path, n_steps: int = 3) -> cv.Trajectories:
    """Opens the file, and reads the cells of a minibatch when it is made."""
    return cv.Trajectories.from_disk(path, perturbation="perturbation", n_steps=n_steps, progress=False)
