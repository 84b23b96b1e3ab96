"""Screens of random counts, of any size, written fast: to measure memory and speed, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from anndata.io import write_elem
from h5py import File  # type: ignore[attr-defined]

from pyro_citevae.errors import DataError

__all__ = ["write_random_screen"]

_CHUNK = 8_192  # cells that are made at once


def write_random_screen(
    path: str | Path,
    *,
    n_cells: int,
    n_genes: int,
    density: float = 0.1,
    n_perturbations: int = 20,
    seed: int = 0,
) -> None:
    """Writes a snapshot of random counts as h5ad or zarr, in little memory.

    Each cell has a count of one or more in ``density * n_genes`` genes, one from each stretch of neighbours;
    the labels ``"control"`` and ``"gene_0"``, ``"gene_1"``, ... are drawn evenly. Nothing depends on them.

    Args:
        path: Where to write, a name that ends in ``.h5ad`` or ``.zarr``.
        n_cells: Number of cells.
        n_genes: Number of genes.
        density: Share of values that are not zero.
        n_perturbations: Number of perturbations.
        seed: Seed of the draws.

    Raises:
        DataError: The name has another ending, or there is something already.

    Example:
        >>> import tempfile
        >>> from pyro_citevae.data import Trajectories
        >>> path = Path(tempfile.mkdtemp()) / "random.h5ad"
        >>> write_random_screen(path, n_cells=300, n_genes=50)
        >>> Trajectories.from_disk(path).values.shape
        (300, 50)
    """
    target = Path(path)
    if target.suffix not in (".h5ad", ".zarr") or target.exists():
        raise DataError(f"'{path}' exists, or ends in neither .h5ad nor .zarr; name a new one of the two.")
    rng = np.random.default_rng(seed)
    labels = ["control", *(f"gene_{i}" for i in range(n_perturbations))]
    made: Any = pd.Categorical  # its stubs want one type of labels at a time
    drawn = made.from_codes(rng.integers(0, len(labels), n_cells), labels)
    obs = pd.DataFrame({"perturbation": drawn}, index=[f"cell_{i:09d}" for i in range(n_cells)])
    stretch = max(1, round(1 / density))
    stored = n_genes // stretch
    group: Any = File(target, "w") if target.suffix == ".h5ad" else zarr.open_group(str(target), mode="w")
    group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    write_elem(group, "obs", obs)
    write_elem(group, "var", pd.DataFrame(index=[f"gene_{i}" for i in range(n_genes)]))
    matrix = group.create_group("X")
    kind = {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [n_cells, n_genes]}
    matrix.attrs.update(kind)
    write_elem(matrix, "indptr", np.arange(n_cells + 1, dtype=np.int64) * stored)
    chunks = {"shape": (n_cells * stored,), "chunks": (min(_CHUNK, n_cells) * stored,)}
    genes = matrix.create_dataset("indices", dtype="i4", **chunks)
    values = matrix.create_dataset("data", dtype="f4", **chunks)
    first_gene = np.arange(stored) * stretch
    for first in range(0, n_cells, _CHUNK):
        n = min(_CHUNK, n_cells - first)
        place = slice(first * stored, (first + n) * stored)
        genes[place] = (first_gene + rng.integers(0, stretch, (n, stored))).ravel()
        values[place] = 1 + rng.poisson(0.6, n * stored)
    if target.suffix == ".h5ad":
        group.close()
