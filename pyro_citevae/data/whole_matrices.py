"""Whole matrices: the arrays of a sparse matrix fit each other, or it is refused before anything reads it.

A row whose start or whose columns lie out of range would be read beyond the end of the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from scipy import sparse

from pyro_citevae.data.stored_groups import found_in, group_of
from pyro_citevae.errors import DataError, reason

__all__ = ["SPARSE", "require_real", "require_whole", "require_whole_file", "require_whole_stored"]

SPARSE = ("csr_matrix", "csc_matrix")
"""What AnnData calls the sparse matrices that it writes."""

_PARTS = ("data", "indices", "indptr")


def require_real(dtype: Any, where: str) -> None:
    """Refuses values that are no real numbers.

    Args:
        dtype: Their type.
        where: What to call them.

    Raises:
        DataError: They are texts, complex, truth values or something else.
    """
    if np.dtype(dtype).kind not in "uif":
        raise DataError(
            f"{where} holds values of type {dtype}; give real numbers, for example with .astype('float32')."
        )


def require_whole(matrix: Any, where: str) -> None:
    """Refuses a sparse matrix in memory whose arrays do not fit each other; another kind is let be.

    Args:
        matrix: The matrix.
        where: What to call it.

    Raises:
        DataError: Starts of rows or columns are out of range or do not rise, or are no whole numbers.

    Example:
        >>> matrix = sparse.csr_matrix(np.eye(2))
        >>> matrix.indices[1] = 7
        >>> require_whole(matrix, "X")
        Traceback (most recent call last):
        ...
        pyro_citevae.errors.DataError: X is no whole sparse matrix (indices must be < 2); write it again.
    """
    if not sparse.issparse(matrix) or not hasattr(matrix, "check_format"):
        return
    arrays = {name: getattr(matrix, name) for name in _PARTS}
    _require_numbers(arrays, where)
    require_real(arrays["data"].dtype, where)
    try:
        matrix.check_format(full_check=True)
    except (ValueError, IndexError, TypeError) as error:
        raise DataError(f"{where} is no whole sparse matrix ({reason(error)}); write it again.") from None


def require_whole_file(path: Path, group: Any = None) -> None:
    """Refuses a file of which a matrix (X, that of ``.raw`` or a layer) is not whole; no value is read.

    Args:
        path: An h5ad file or a zarr folder.
        group: The open file; None to open it.

    Raises:
        DataError: The file cannot be opened, or the arrays of a matrix do not fit each other.
    """
    if group is None:
        opened = group_of(path)
        with opened if hasattr(opened, "__exit__") else nullcontext(opened) as held:
            return require_whole_file(path, held)
    layers = found_in(group, "layers", path)
    named = {f"layers/{name}": f"layer '{name}'" for name in (layers if hasattr(layers, "keys") else ())}
    for key, where in {"X": "X", "raw/X": ".raw", **named}.items():
        found = found_in(group, key, path)
        if hasattr(found, "attrs") and found.attrs.get("encoding-type") in SPARSE:
            require_whole_stored(path, where, found)
        elif isinstance(found, zarr.Array) and found.nchunks_initialized:  # of zeros alone, none is written
            require_chunks(path, where, {"values": found})
    return None


def require_whole_stored(path: Path, where: str, found: Any) -> None:
    """Refuses a sparse matrix in a file whose starts of rows do not lead through its values.

    Args:
        path: The file.
        where: What to call the matrix.
        found: Its group.

    Raises:
        DataError: An array is missing, of another length or type, or the starts do not rise.
    """
    said = f"{where} of '{path}'"
    arrays = {name: found_in(found, name, path) for name in _PARTS}
    missing = [name for name, array in arrays.items() if not hasattr(array, "dtype")]
    if missing:
        raise DataError(f"{said} lacks the array '{missing[0]}'; write the file again.")
    _require_numbers(arrays, said)
    kind = arrays["data"].dtype
    if kind == np.float16 or kind.kind not in "biufc":
        raise DataError(f"{said} holds values of type {kind}; write them as float32.")
    shape = tuple(int(n) for n in np.ravel(found.attrs.get("shape", ())))
    if len(shape) != 2 or min(shape) < 0:
        raise DataError(f"{said} has the shape {shape}, which is none of a matrix; write it again.")
    n_starts = shape[int(found.attrs["encoding-type"] == "csc_matrix")] + 1
    n_values = arrays["data"].shape[0]
    starts = np.asarray(arrays["indptr"][:]) if arrays["indptr"].shape[0] == n_starts else np.zeros(1, int)
    if arrays["indices"].shape[0] != n_values or len(starts) != n_starts or starts[-1] != n_values:
        raise DataError(
            f"{said} has {shape[0]} cells, and its arrays are of other lengths; it may be truncated, so "
            "write it again."
        )
    if starts[0] != 0 or (starts[1:] < starts[:-1]).any():
        raise DataError(
            f"{said} is no whole sparse matrix (indptr does not rise from 0 to {n_values}); write it again."
        )
    if n_values:  # of zeros alone, zarr writes no chunk, and columns are that where a row has one value
        sure = [name for name in _PARTS if name != "indices" or np.diff(starts).max() > 1]
        require_chunks(path, where, {name: arrays[name] for name in sure})


def require_chunks(path: Path, where: str, arrays: Mapping[str, Any]) -> None:
    """Refuses zarr arrays with chunks that are not there, which read as zeros.

    Args:
        path: The folder.
        where: What to call the matrix.
        arrays: Its arrays; others than zarr's are let be.

    Raises:
        DataError: A chunk is not there.
    """
    for name, array in arrays.items():
        if isinstance(array, zarr.Array) and array.nchunks_initialized < array.nchunks:
            lost = array.nchunks - array.nchunks_initialized
            raise DataError(
                f"the array '{name}' of {where} in '{path}' lacks {lost} of its {array.nchunks} chunks, "
                "which read as zeros; copy the folder again, or write its cells as h5ad."
            )


def _require_numbers(arrays: Mapping[str, Any], said: str) -> None:
    """Refuses places that are no list of whole numbers, which a cast would round."""
    for name, array in arrays.items():
        if len(array.shape) != 1 or (name != "data" and array.dtype.kind not in "iu"):
            raise DataError(
                f"{said} is no whole sparse matrix ({name} is an array of type {array.dtype} and shape "
                f"{tuple(array.shape)}); write it again."
            )
