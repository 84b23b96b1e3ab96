"""Minibatches by other libraries' loaders, for files that they read better: scDataset and annbatch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
from jaxtyping import Int

from pyro_citevae.data.backed import BackedCounts
from pyro_citevae.data.batch import Batch
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError

__all__ = ["Minibatches", "from_annbatch", "from_scdataset"]


class Minibatches(Protocol):
    """What ``fit(batches=)`` takes: an epoch of minibatches each time it is iterated."""

    def __len__(self) -> int:
        """Number of minibatches of an epoch."""

    def __iter__(self) -> Iterator[Batch]:
        """An epoch."""


def from_scdataset(
    data: Trajectories,
    *,
    batch_size: int = 256,
    block_size: int = 64,
    fetch_factor: int = 64,
    seed: int = 0,
    strategy: Any = None,
) -> Minibatches:
    """Minibatches of a screen as scDataset draws them: random blocks, fetched many at once and shuffled.

    Pass them as ``fit(..., batches=..., validation=0)``. scDataset counts its own epochs, so that a resumed
    fit sees other minibatches than an uninterrupted one.

    Args:
        data: The screen, in memory or on disk.
        batch_size: Cells in a minibatch.
        block_size: Neighbouring cells in a block.
        fetch_factor: Minibatches that are read together.
        seed: Seed of the order.
        strategy: A ``scdataset.SamplingStrategy``; None for ``BlockShuffling(block_size)``.

    Raises:
        DataError: scDataset is not installed.

    Source: D. D'Ascenzo and S. Cultrera di Montesano, scDataset: Scalable Data Loading for Deep Learning on
    Large-Scale Single-Cell Omics (2025).
    """
    try:
        from scdataset import BlockShuffling, scDataset
    except ImportError as error:
        raise DataError("scDataset is not installed; run pip install 'pyro-citevae[scdataset]'.") from error
    loader: Minibatches = scDataset(
        _Positions(np.argsort(data.place, kind="stable")),
        BlockShuffling(block_size=block_size) if strategy is None else strategy,
        batch_size=batch_size,
        fetch_factor=fetch_factor,
        fetch_callback=lambda positions, index: _Read(data, positions[index]),
        batch_callback=lambda read, index: read.batch(index),
        seed=seed,
    )
    return loader


@final
@dataclass(frozen=True)
class _Positions(Sized):
    """Positions of cells in the order of their file."""

    order: Int[np.ndarray, " cell"]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: Int[np.ndarray, " chosen"]) -> Int[np.ndarray, " chosen"]:
        return self.order[index]


@final
class _Read:
    """Cells whose values were read together."""

    def __init__(self, data: Trajectories, cells: Int[np.ndarray, " read"]) -> None:
        self.data, self.cells = data, cells
        self.part = data.held(cells)

    def batch(self, index: Sequence[int]) -> Batch:
        """A minibatch of some of them."""
        return self.part(self.cells[np.asarray(index)])


def from_annbatch(
    data: Trajectories,
    *,
    batch_size: int = 256,
    chunk_size: int = 256,
    preload_nchunks: int = 64,
    seed: int = 0,
) -> Minibatches:
    """Minibatches of a screen in a zarr as annbatch reads them: many chunks at once, and in parallel.

    Pass them as ``fit(..., batches=..., validation=0)``. The order is annbatch's own, so that a resumed fit
    sees other minibatches than an uninterrupted one.

    Args:
        data: A snapshot or time course that :meth:`Trajectories.from_disk` read from a zarr, all of its rows.
        batch_size: Cells in a minibatch.
        chunk_size: Neighbouring cells that are read together.
        preload_nchunks: Chunks that are read at once.
        seed: Seed of the order.

    Raises:
        DataError: annbatch is not installed (it needs Python 3.12), or the data are of another kind.
    """
    try:
        from annbatch import Loader
    except ImportError as error:
        raise DataError(
            "annbatch is not installed; run pip install 'pyro-citevae[annbatch]' with Python 3.12 or later."
        ) from error
    stored = data.values
    if not isinstance(stored, BackedCounts) or len(stored.rows) != stored.matrix.shape[0]:
        raise DataError(
            "from_annbatch(data) takes all rows of a zarr; read it by Trajectories.from_disk, and write a "
            "part of a split to a file of its own."
        )
    if data.schema.design == "sequences":
        raise DataError("from_annbatch(data) takes one row a cell; use from_scdataset for sequences.")
    options = {"batch_size": batch_size, "chunk_size": chunk_size, "preload_nchunks": preload_nchunks}
    rng = np.random.default_rng(seed)
    loader = Loader(**options, shuffle=True, return_index=True, preload_to_gpu=False, rng=rng)
    return _FromAnnbatch(data, loader.add_dataset(stored.matrix), np.argsort(stored.rows))


@final
@dataclass(frozen=True)
class _FromAnnbatch:
    """annbatch's minibatches as ours."""

    data: Trajectories
    loader: Any
    cell_of_row: Int[np.ndarray, " row"]

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for read in self.loader:
            yield self.data.batch(self.cell_of_row[np.asarray(read["index"])], self._values(read["X"]))

    def _values(self, read: Any) -> Any:
        stored: Any = self.data.values
        return BackedCounts(read, np.arange(read.shape[0]), stored.columns).in_memory()
