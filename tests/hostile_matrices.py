"""Matrices of a hostile screen: values that are no counts, odd types, and odd ways to lie in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask.array
import numpy as np
from scipy import sparse

__all__ = ["COUNTS", "FORMS", "dense", "with_count"]


def dense(X: Any) -> Any:
    """A matrix with its zeros."""
    X = X.compute() if hasattr(X, "compute") else X
    return X.toarray() if sparse.issparse(X) else X


def _unsorted(X: Any) -> Any:
    matrix = sparse.csr_matrix(dense(X))
    for start, end in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        matrix.indices[start:end], matrix.data[start:end] = (
            matrix.indices[start:end][::-1].copy(),
            matrix.data[start:end][::-1].copy(),
        )
    matrix.has_sorted_indices = False
    return matrix


def _doubled(X: Any) -> Any:
    """Each value as two entries of its place, and some zeros stored."""
    one = sparse.csr_matrix(dense(X))
    data = np.repeat(one.data, 2)
    data[1::2] = 0
    return sparse.csr_matrix((data, np.repeat(one.indices, 2), one.indptr * 2), shape=one.shape)


def _long_index(X: Any) -> Any:
    matrix = sparse.csr_matrix(dense(X))
    matrix.indices, matrix.indptr = matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)
    return matrix


def _read_only(X: Any) -> Any:
    matrix = sparse.csr_matrix(dense(X))
    for array in (matrix.data, matrix.indices, matrix.indptr):
        array.flags.writeable = False
    return matrix


def _emptied(where: tuple[Any, Any]) -> Callable[[Any], Any]:
    def change(X: Any) -> Any:
        X = np.array(dense(X))
        X[where] = 0
        return X

    return change


def with_count(X: Any, value: float, kind: str) -> Any:
    """The matrix as another type, with one value in its middle."""
    made = np.array(dense(X), dtype=kind)
    if made.size:
        made.flat[made.size // 2] = value
    return made


def _as_type(kind: str) -> Callable[[Any], Any]:
    return lambda X: dense(X).astype(kind)


def _sparse_as_type(kind: str) -> Callable[[Any], Any]:
    return lambda X: sparse.csr_matrix(dense(X).astype(kind))


_KINDS = (
    *("i1", "u1", "i2", "i4", "i8", "u8", "f2", "f4", "f8", "g", ">f4", ">i4", "?", "c8", "O", "U5"),
    "S5",
    "M8[s]",
)
_DOUBLES = (np.nan, np.inf, -np.inf, -1, 0.5, 1e-300, 5e-324, 2**24, 2**24 + 1, 16777216.5, 2**31, 2**53 + 1)

COUNTS: tuple[tuple[float, str], ...] = (
    *((value, "f8") for value in (*_DOUBLES, 1e39, 1e308, -0.0)),
    *((value, "f4") for value in (np.nan, 1e-40, 3e38, 1e7)),
    (2**40, "i8"),
    (-1, "i8"),
    (2**63, "u8"),
    (2**24 + 1, "i4"),
    (1e300, "g"),
)
"""A value, and the type of the matrix that holds it."""

FORMS: tuple[Callable[[Any], Any], ...] = (
    lambda X: dask.array.from_array(dense(X), chunks=(5, 2)),
    sparse.csr_matrix,
    sparse.csc_matrix,
    sparse.csr_array,
    sparse.csc_array,
    np.asfortranarray,
    lambda X: np.ma.masked_equal(dense(X), 1),
    lambda X: np.ma.masked_array(dense(X)),
    lambda X: np.repeat(dense(X), 2, axis=0)[::2],
    _unsorted,
    _doubled,
    _long_index,
    _read_only,
    _emptied((slice(None), slice(None))),
    _emptied((0, slice(None))),
    _emptied((slice(None), 0)),
    _emptied((slice(None), slice(1, None))),
    _emptied((slice(1, None), slice(None))),
    lambda X: dense(X) * 1e6,
    lambda X: -dense(X),
    lambda X: np.log1p(dense(X)),
    *map(_as_type, _KINDS),
    *map(_sparse_as_type, ("i1", "u8", "?", "c8", "g", "f8")),
)
"""Other types of the values, and other ways in which a matrix lies in memory."""
