"""Values: a matrix of counts is checked as it is stored, and then kept as sparse rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from pyro_citevae.data.anndata_io import layer_names
from pyro_citevae.data.sparse_rows import SparseRows, as_csr
from pyro_citevae.data.whole_matrices import require_real, require_whole
from pyro_citevae.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "as_rows",
    "counts_elsewhere",
    "holds_counts",
    "in_memory",
    "layer_of_counts",
    "matrix_of",
    "require_values",
    "with_expected",
]

_LARGEST = 2**24  # the largest integer up to which single precision holds every one
_LOOKED_AT = 2_000  # rows that say whether a matrix holds counts


def matrix_of(adata: AnnData, layer: str | None) -> tuple[Any, str]:
    """A matrix of an AnnData, and what to call it.

    Raises:
        DataError: There is no such layer, or no X.
    """
    names = layer_names(adata)
    if layer is not None and layer not in names:
        raise DataError(f"layer='{layer}' is not a layer; the layers are {names}.")
    found = adata.X if layer is None else adata.layers[layer]
    if found is None:
        raise DataError("the AnnData has no X; name the layer that holds the counts with layer=.")
    return found, "X" if layer is None else f"layer '{layer}'"


def in_memory(matrix: Any) -> Any:
    """A matrix that is computed or read when it is asked for, such as dask's, as one of NumPy or SciPy."""
    for method in ("compute", "to_memory"):
        if hasattr(matrix, method):
            matrix = getattr(matrix, method)()
    return matrix


def as_rows(matrix: Any, where: str, values: str, elsewhere: Callable[[], str] = str) -> SparseRows:
    """A matrix as sparse rows, checked before it is cast.

    Args:
        matrix: Cells x genes: an array, or a sparse matrix of any format.
        where: What to call it.
        values: ``"counts"`` or ``"real"``.
        elsewhere: Says where counts are if these are none.

    Raises:
        DataError: The values are of another kind, out of range, or the arrays of a sparse matrix do not fit.
    """
    stored = in_memory(matrix)
    require_whole(stored, where)
    _require_real(stored, where)
    rows = as_csr(stored.tocsr(copy=True) if sparse.issparse(stored) else np.asarray(stored))
    rows.sum_duplicates()
    require_values(rows, where, values=values, elsewhere=elsewhere)
    kept = rows.astype(np.float32, copy=False)
    kept.eliminate_zeros()
    return SparseRows(kept)


def require_values(
    rows: sparse.csr_matrix, where: str, *, values: str, elsewhere: Callable[[], str] = str
) -> None:
    """Refuses rows whose values single precision does not hold, or that are no counts.

    Args:
        rows: The rows as they are stored.
        where: What to call them.
        values: ``"counts"`` or ``"real"``.
        elsewhere: Says where counts are if these are none.

    Raises:
        DataError: A value is missing, infinite, or no count.
    """
    stored = rows.data
    _require_real(stored, where)
    if not np.isfinite(stored).all():
        raise DataError(f"{where} holds NaN or infinite values; give raw counts.")
    if values == "counts":
        _require_counts(stored, where, elsewhere)
    elif np.abs(stored).max(initial=0.0) > np.finfo(np.float32).max:
        raise DataError(f"{where} holds values beyond single precision; rescale them.")


def layer_of_counts(adata: AnnData, but: str | None = None) -> str | None:
    """The first layer but one that holds counts, or ``"raw"`` for ``.raw``; None if none does."""
    places: dict[str, Any] = {name: adata.layers[name] for name in layer_names(adata)}
    if adata.raw is not None:
        places.setdefault("raw", adata.raw.X)
    return next((name for name, matrix in places.items() if name != but and holds_counts(matrix)), None)


def counts_elsewhere(adata: AnnData, layer: str | None) -> str:
    """Where an AnnData holds counts, if not in a layer, as a way out; empty if nowhere."""
    found = layer_of_counts(adata, but=layer)
    if found is not None:
        where = f"layer '{found}'" if found in adata.layers else ".raw"
        return f"{where} holds counts: name it with layer='{found}'"
    if layer is not None and adata.X is not None and holds_counts(adata.X):
        return "X holds counts: leave layer= out"
    return ""


def with_expected(
    rows: sparse.csr_matrix, there: np.ndarray, share: np.ndarray, order: np.ndarray, seed: int = 0
) -> sparse.csr_matrix:
    """Rows with drawn counts in the place of genes that were not measured.

    ``x_ng ~ Poisson(r_n share_g)`` with r_n the cell's counts of the measured genes, over their share.

    Args:
        rows: Counts of the measured genes, of shape (cell, measured gene).
        there: Which genes are measured, of shape (gene,).
        share: Share of the counts that each gene is expected to hold, of shape (gene,).
        order: Order in which cells are drawn, so that their place in the file does not matter.
        seed: Seed of the draws.

    Returns:
        Counts of shape (cell, gene).
    """
    depth = np.asarray(rows.sum(1)).ravel() / share[there].sum()
    drawn = np.empty((len(depth), int((~there).sum())))
    drawn[order] = np.random.default_rng(seed).poisson(depth[order, None] * share[~there])
    both = sparse.hstack([rows, sparse.csr_matrix(drawn.astype(np.float32))], format="csr")
    place = np.argsort(np.concatenate([np.flatnonzero(there), np.flatnonzero(~there)]))
    return sparse.csr_matrix(both[:, place])


def holds_counts(matrix: Any) -> bool:
    """Whether the first rows of a matrix are whole numbers, zero or more, and not all zero."""
    try:
        require_whole(matrix, "the matrix")
    except DataError:
        return False
    part = in_memory(matrix[:_LOOKED_AT])
    found = part.data if sparse.issparse(part) else np.asarray(part).ravel()
    numbers = found.dtype.kind in "uif" and found.size > 0 and bool(np.isfinite(found).all())
    return numbers and bool((found >= 0).all() and (found == np.rint(found)).all() and found.any())


def _require_real(stored: Any, where: str) -> None:
    """Refuses values that are no real numbers, or masked."""
    if np.ma.isMaskedArray(stored):
        raise DataError(f"{where} holds masked values; give real numbers, for example with .filled(0).")
    require_real(getattr(stored, "dtype", object), where)


def _require_counts(stored: np.ndarray, where: str, elsewhere: Callable[[], str]) -> None:
    wrong = {"negative": stored < 0, "fractional": stored != np.rint(stored), "huge": stored > _LARGEST}
    for what, found in wrong.items():
        if found.any():
            value = stored[np.flatnonzero(found)[0]]
            way_out = elsewhere() or "name raw counts with layer=, or take the values with values='real'"
            raise DataError(f"{where} holds {what} values such as {float(value):.10g}; {way_out}.")
