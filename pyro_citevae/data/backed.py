"""Counts that stay in their file: what a sparse matrix is to counts in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, final

import numpy as np
from jaxtyping import Float32, Int
from scipy import sparse

from pyro_citevae.data.observations import SparseObservations
from pyro_citevae.data.sparse_rows import SparseRows, as_csr
from pyro_citevae.data.stored_rows import StoredRows

__all__ = ["BackedCounts"]

_CHUNK = 8_192  # rows that are held at once
_GAP = 8  # rows that are read and thrown away sooner than the file is asked twice


@final
class BackedCounts(StoredRows):
    """Rows of counts in a file; only what is asked for is read.

    Args:
        matrix: What gives CSR, or dense, rows by ``matrix[first:last]``, such as a matrix in h5ad or zarr.
        rows: Which rows of the matrix these are.
        columns: Which columns; None for all.
        content: Digest of what the matrix holds; :meth:`scan` makes it.
        totals: Sum of each row, if it is known.
        reopen: Opens the matrix again: an open file cannot be copied or pickled, and what opens it can.

    Example:
        >>> stored = sparse.csr_matrix(np.array([[0, 1], [2, 0], [0, 3]], dtype=np.float32))
        >>> backed = BackedCounts(stored, np.array([2, 0]))
        >>> backed.shape, backed.in_memory().toarray().tolist(), backed.sum(1).tolist()
        ((2, 2), [[0.0, 3.0], [0.0, 1.0]], [3.0, 1.0])
    """

    in_file = True

    def __init__(
        self,
        matrix: Any,
        rows: Int[np.ndarray, " row"],
        columns: Int[np.ndarray, " column"] | None = None,
        *,
        content: bytes = b"",
        totals: np.ndarray | None = None,
        reopen: Callable[[], Any] | None = None,
    ) -> None:
        self._matrix, self.rows, self.columns = matrix, rows, columns
        self.content, self.totals, self.reopen = content, totals, reopen

    @property
    def matrix(self) -> Any:
        """What gives rows; a copy opens the file when it is first asked.

        Raises:
            DataError: The file is no longer there, or has changed.
        """
        if self._matrix is None and self.reopen is not None:
            self._matrix = self.reopen()
        return self._matrix

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of: all but an open file."""
        return vars(self) | ({} if self.reopen is None else {"_matrix": None})

    def _with(
        self,
        rows: Int[np.ndarray, " row"],
        columns: Int[np.ndarray, " column"] | None,
        content: bytes,
        totals: np.ndarray | None = None,
    ) -> BackedCounts:
        """Other rows or columns of the same file."""
        return BackedCounts(self.matrix, rows, columns, content=content, totals=totals, reopen=self.reopen)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.rows), self.matrix.shape[1] if self.columns is None else len(self.columns)

    def __getitem__(self, chosen: Int[np.ndarray, " chosen"] | slice) -> BackedCounts:
        """Some of the rows, in the same file."""
        totals = None if self.totals is None else self.totals[chosen]
        return self._with(self.rows[chosen], self.columns, self.content, totals)

    def of_columns(self, chosen: Int[np.ndarray, " chosen"]) -> BackedCounts:
        """Some of the columns, in the same file."""
        kept = chosen if self.columns is None else self.columns[chosen]
        every = np.array_equal(kept, np.arange(self.matrix.shape[1]))  # then the digest is that of all, too
        return self._with(self.rows, None if every else kept, self.content)

    def in_memory(self) -> SparseRows:
        """The rows, read: neighbours in the file together, each once."""
        return SparseRows(self.tocsr())

    @property
    def place(self) -> Int[np.ndarray, " row"]:
        """Where each row lies in the file."""
        return self.rows

    def tocsr(self) -> sparse.csr_matrix:
        """The rows as a sparse matrix, read."""
        return _tidied(self._as_stored().astype(np.float32, copy=False))

    def _as_stored(self) -> sparse.csr_matrix:
        """The rows as a sparse matrix of the type that the file has."""
        if len(self.rows) == 0:
            return sparse.csr_matrix(self.shape, dtype=np.float32)
        distinct, position = np.unique(self.rows, return_inverse=True)
        starts = np.concatenate([[0], np.flatnonzero(np.diff(distinct) > _GAP) + 1])
        firsts, lasts = distinct[starts], distinct[np.append(starts[1:], len(distinct)) - 1] + 1
        parts = [
            as_csr(self.matrix[int(first) : int(last)]) for first, last in zip(firsts, lasts, strict=True)
        ]
        read = parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")
        before = np.concatenate([[0], np.cumsum(lasts - firsts)[:-1]])
        run = np.searchsorted(starts, np.arange(len(distinct)), side="right") - 1
        wanted = (distinct - firsts[run] + before[run])[position]
        if not np.array_equal(wanted, np.arange(read.shape[0])):
            read = read[wanted]
        if self.columns is not None:
            read = read[:, self.columns]
            read.sort_indices()
        return read

    def blocks(self) -> Iterator[sparse.csr_matrix]:
        """All rows in order, some thousands at a time."""
        for first in range(0, len(self.rows), _CHUNK):
            yield self[slice(first, first + _CHUNK)].tocsr()

    def scan(
        self, check: Callable[[sparse.csr_matrix], None], advance: Callable[[int], None]
    ) -> BackedCounts:
        """Reads all once in the order of the file, and returns these rows with their digest and totals.

        Args:
            check: Refuses a block, of the type that the file has, whose values are wrong.
            advance: Is told how many rows were read.
        """
        digest = hashlib.sha256()
        order = np.argsort(self.rows, kind="stable")
        totals = np.zeros(len(order), dtype=np.float32)
        for first in range(0, len(order), _CHUNK):
            chosen = order[first : first + _CHUNK]
            stored = self[chosen]._as_stored()
            check(stored)
            block = _tidied(stored.astype(np.float32, copy=False))
            for array in (block.indptr, block.indices, block.data):
                digest.update(np.ascontiguousarray(array).data)
            totals[chosen] = np.asarray(block.sum(1)).ravel()
            advance(len(chosen))
        return self._with(self.rows, self.columns, digest.digest(), totals)

    def arrays(self) -> Iterator[np.ndarray]:
        """What a digest of the rows is made of, without another look into the file."""
        yield np.frombuffer(self.content, dtype=np.uint8)
        yield self.rows
        if self.columns is not None:
            yield self.columns

    def toarray(self) -> Float32[np.ndarray, "row column"]:
        """The rows with their zeros."""
        return self.in_memory().toarray()

    def sum(self, axis: int | None = None, dtype: Any = None) -> np.ndarray:
        """The sum over the rows (axis 0), of each row (axis 1), or of all values."""
        if axis == 1:
            if self.totals is None:
                self.totals = np.concatenate(
                    [np.asarray(block.sum(1)).ravel() for block in self.blocks()] or [np.zeros(0)]
                )
            return np.asarray(self.totals, dtype=dtype)
        total = np.zeros(self.shape[1])
        for block in self.blocks():
            total += np.asarray(block.sum(0, dtype=float)).ravel()
        return np.asarray(total.sum() if axis is None else total, dtype=dtype)

    def observations(self, row: Int[np.ndarray, " row"], shape: tuple[int, int, int]) -> SparseObservations:
        """The stored values, read now."""
        return self.in_memory().observations(row, shape)


def _tidied(rows: sparse.csr_matrix) -> sparse.csr_matrix:
    """Rows without duplicated or explicit zero entries."""
    rows.sum_duplicates()
    rows.eliminate_zeros()
    return rows
