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
    of the values not zero. Labels are in ``obs["perturbation"]``, and in random order; each perturbation has
    a cell, where there are more cells than perturbations.

    Args:
        path: File to write; it must not exist.
        n_cells: Number of cells.
        n_genes: Number of genes; the perturbed ones are the first.
        n_perturbations: Number of perturbations, ``gene_0``, ``gene_1``, ..., of which those beyond the
            number of genes are of genes that were not measured.
        depth: Median of the library sizes.
        seed: Seed.
        chunk: Cells that are held at once.
    """
    rng = np.random.default_rng(seed)
    genes = [f"gene_{g}" for g in range(n_genes)]
    shares = _Shares(n_genes, n_perturbations, rng)
    condition = _conditions(n_cells, n_perturbations, rng)
    perturbed = [f"gene_{p}" for p in range(n_perturbations)]
    labels = pd.Categorical.from_codes(condition, ["control", *perturbed])
    chunks = _chunks(condition, shares, depth or max(1, n_genes // 8), rng, chunk)
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


class _Shares:
    """Gene shares of the control and of each perturbation, held as the few genes that each one changes."""

    def __init__(self, n_genes: int, n_perturbations: int, rng: np.random.Generator) -> None:
        self.log_share = rng.normal(0.0, 1.5, n_genes)
        self.changes = []
        for _ in range(n_perturbations):
            targets = rng.choice(n_genes, min(_TARGETS, n_genes), replace=False)
            self.changes.append((targets, rng.normal(0.0, 1.0, len(targets))))

    def cumulative(self, condition: int) -> np.ndarray:
        """Their sums along the genes: of the control for 0, of perturbation p for p + 1."""
        log_share = self.log_share.copy()
        if condition:
            targets, change = self.changes[condition - 1]
            log_share[targets] += change
            if condition <= len(log_share):
                log_share[condition - 1] -= 2.0
        cumulative: np.ndarray = np.exp(log_share - np.logaddexp.reduce(log_share)).cumsum()
        return cumulative / cumulative[-1]


def _conditions(n_cells: int, n_perturbations: int, rng: np.random.Generator) -> np.ndarray:
    """The perturbation of each cell, 0 for none."""
    drawn = np.where(rng.random(n_cells) < 0.5, 0, rng.integers(1, n_perturbations + 1, n_cells))
    every = np.arange(1, n_perturbations + 1)
    if n_cells > n_perturbations and not np.isin(every, drawn).all():  # some would have no cell
        drawn[rng.choice(n_cells, n_perturbations, replace=False)] = every
    return drawn


def _chunks(
    condition: np.ndarray, shares: _Shares, depth: int, rng: np.random.Generator, chunk: int
) -> Iterator[sparse.csr_matrix]:
    """Counts of consecutive cells: the gene of every single count, by inversion, and then summed up."""
    for first in range(0, len(condition), chunk):
        acting = condition[first : first + chunk]
        sizes = np.maximum(1, rng.lognormal(np.log(depth), 0.3, len(acting))).astype(int)
        cell = np.repeat(np.arange(len(acting)), sizes)
        gene = np.empty(len(cell), dtype=np.int32)
        law = acting[cell]
        drawn = rng.random(len(cell))
        order, many = np.argsort(law, kind="stable"), np.bincount(law)
        ends = many.cumsum()
        for p in np.unique(acting):
            own = order[ends[p] - many[p] : ends[p]]
            gene[own] = np.searchsorted(shares.cumulative(int(p)), drawn[own])
        ones = np.ones(len(cell), dtype=np.float32)
        yield sparse.coo_matrix((ones, (cell, gene)), shape=(len(acting), len(shares.log_share))).tocsr()
