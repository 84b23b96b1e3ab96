"""Counts in memory: rows of a sparse matrix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float32, Int
from scipy import sparse

from pyro_citevae.data.observations import SparseObservations
from pyro_citevae.data.stored_rows import StoredRows

__all__ = ["SparseRows", "as_csr"]


def as_csr(matrix: Any) -> sparse.csr_matrix:
    """A matrix as rows of its type, in the byte order of this machine; half precision becomes single.

    Example:
        >>> as_csr(np.eye(2, dtype=np.float16)).dtype
        dtype('float32')
    """
    kind = np.dtype(np.float32) if matrix.dtype == np.float16 else matrix.dtype.newbyteorder("=")
    return sparse.csr_matrix(matrix if matrix.dtype == kind else matrix.astype(kind))


@final
class SparseRows(StoredRows):
    """Rows of a CSR matrix.

    Args:
        matrix: The values, without duplicated or explicit zero entries.

    Example:
        >>> rows = SparseRows(sparse.csr_matrix(np.array([[0, 1], [2, 0]], dtype=np.float32)))
        >>> rows[np.array([1])].toarray().tolist(), rows.sum(1).tolist()
        ([[2.0, 0.0]], [1.0, 2.0])
    """

    def __init__(self, matrix: sparse.csr_matrix) -> None:
        self.matrix = matrix

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and values of a row."""
        rows, values = self.matrix.shape
        return int(rows), int(values)

    def __getitem__(self, rows: Int[np.ndarray, " chosen"] | slice) -> SparseRows:
        """Some of the rows."""
        return SparseRows(self.matrix[rows])

    def of_columns(self, columns: Int[np.ndarray, " chosen"]) -> SparseRows:
        """All rows, with some of their values."""
        kept = self.matrix[:, columns]
        kept.sort_indices()
        return SparseRows(kept)

    def toarray(self) -> Float32[np.ndarray, "row value"]:
        """The rows with their zeros."""
        return np.asarray(self.matrix.toarray())

    def tocsr(self) -> sparse.csr_matrix:
        """The matrix itself."""
        return self.matrix

    def plain(self) -> sparse.csr_matrix:
        """The matrix itself."""
        return self.matrix

    def sum(self, axis: int | None = None, dtype: Any = None) -> np.ndarray:
        """The sum over the rows (axis 0), of each row (axis 1), or of all values (None)."""
        total = np.asarray(self.matrix.sum(axis, dtype=dtype))
        return total if axis is None else total.ravel()

    def observations(self, row: Int[np.ndarray, " row"], shape: tuple[int, int, int]) -> SparseObservations:
        """The stored values alone, each with its place in the minibatch."""
        stored: Any = self.matrix.tocoo()
        return SparseObservations(
            torch.from_numpy(row[stored.row]),
            torch.from_numpy(stored.col.astype(np.int64)),
            torch.from_numpy(stored.data.astype(np.float32)),
            shape,
        )

    def arrays(self) -> Iterator[np.ndarray]:
        """The arrays of the matrix."""
        yield from (self.matrix.indptr, self.matrix.indices, self.matrix.data)
