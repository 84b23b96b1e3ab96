"""Simulated screens on disk, written a chunk of cells at a time and never held."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from scipy import sparse

__all__ = ["screen_file", "write_screen"]

_TARGETS = 50  # genes that a perturbation changes


def screen_file(
    folder: Path,
    n_cells: int,
    n_genes: int,
    *,
    kind: str = "h5ad",
    n_perturbations: int = 20,
    chunk: int = 5_000,
) -> Path:
    """The path of a screen of these sizes, which is written if it is not there."""
    path = folder / f"screen_{n_cells}x{n_genes}x{n_perturbations}.{kind}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"unfinished_{path.name}")
        write_screen(unfinished, n_cells, n_genes, n_perturbations=n_perturbations, chunk=chunk)
        unfinished.rename(path)
    return path


def write_screen(
    path: Path,
    n_cells: int,
    n_genes: int,
    *,
    n_perturbations: int = 20,
    depth: int | None = None,
    seed: int = 0,
    chunk: int = 5_000,
) -> None:
    """Writes CSR counts of a screen with half of its cells unperturbed, as h5ad or zarr by the path's ending.

    ``x_n ~ Multinomial(depth_n, p)`` with log-normal depths about ``depth`` and gene shares p, of which each
    perturbation multiplies a few. The default depth, an eighth of the number of genes, leaves about a tenth
    of the values not zero. Labels are in ``obs["perturbation"]``, and in random order.

    Args:
        path: File to write; it must not exist.
        n_cells: Number of cells.
        n_genes: Number of genes; the perturbed ones are the first.
        n_perturbations: Number of perturbations, ``gene_0``, ``gene_1``, ...
        depth: Median of the library sizes.
        seed: Seed.
        chunk: Cells that are held at once.
    """
    rng = np.random.default_rng(seed)
    genes = [f"gene_{g}" for g in range(n_genes)]
    cumulative = _shares(n_genes, n_perturbations, rng)
    condition = np.where(rng.random(n_cells) < 0.5, 0, rng.integers(1, n_perturbations + 1, n_cells))
    labels = pd.Categorical.from_codes(condition, ["control", *genes[:n_perturbations]])
    chunks = _chunks(condition, cumulative, depth or max(1, n_genes // 8), rng, chunk)
    obs = pd.DataFrame({"perturbation": labels}, index=pd.RangeIndex(n_cells).astype(str))
    var = pd.DataFrame(index=genes)
    if path.suffix == ".zarr":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*autosharding")
            _write(zarr.open_group(path, mode="w"), chunks, obs, var)
    else:
        with h5py.File(path, "w") as file:
            _write(file, chunks, obs, var)


def _write(group: Any, chunks: Iterator[sparse.csr_matrix], obs: pd.DataFrame, var: pd.DataFrame) -> None:
    """Writes the first chunk as an AnnData, appends the others to its X, and then all the labels."""
    first = next(chunks)
    whole = anndata.AnnData(first, obs=obs.iloc[: first.shape[0]], var=var)
    anndata.io.write_elem(group, "/", whole)
    stored = anndata.io.sparse_dataset(group["X"])
    for chunk in chunks:
        stored.append(chunk)
    anndata.io.write_elem(group, "obs", obs)


def _shares(n_genes: int, n_perturbations: int, rng: np.random.Generator) -> np.ndarray:
    """Cumulative gene shares of the control and of each perturbation."""
    log_share = np.tile(rng.normal(0.0, 1.5, n_genes), (n_perturbations + 1, 1))
    for p in range(n_perturbations):
        targets = rng.choice(n_genes, min(_TARGETS, n_genes), replace=False)
        log_share[p + 1, targets] += rng.normal(0.0, 1.0, len(targets))
        log_share[p + 1, p] -= 2.0
    share = np.exp(log_share - np.logaddexp.reduce(log_share, axis=1, keepdims=True))
    cumulative: np.ndarray = share.cumsum(1)
    return cumulative / cumulative[:, -1:]


def _chunks(
    condition: np.ndarray, cumulative: np.ndarray, depth: int, rng: np.random.Generator, chunk: int
) -> Iterator[sparse.csr_matrix]:
    """Counts of consecutive cells: the gene of every single count, by inversion, and then summed up."""
    for first in range(0, len(condition), chunk):
        acting = condition[first : first + chunk]
        sizes = np.maximum(1, rng.lognormal(np.log(depth), 0.3, len(acting))).astype(int)
        cell = np.repeat(np.arange(len(acting)), sizes)
        gene = np.empty(len(cell), dtype=np.int32)
        law = acting[cell]
        drawn = rng.random(len(cell))
        for p in np.unique(acting):
            gene[law == p] = np.searchsorted(cumulative[p], drawn[law == p])
        ones = np.ones(len(cell), dtype=np.float32)
        yield sparse.coo_matrix((ones, (cell, gene)), shape=(len(acting), cumulative.shape[1])).tocsr()
