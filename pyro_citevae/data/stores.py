"""Screens in h5ad and zarr whose counts are left where they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset
from jaxtyping import Int
from rich.console import Console
from rich.progress import Progress
from scipy import sparse

from pyro_citevae.data.backed import BackedCounts
from pyro_citevae.data.opening import RAW
from pyro_citevae.data.stored_groups import found_in, group_of
from pyro_citevae.data.whole_matrices import require_chunks, require_real, require_whole, require_whole_file
from pyro_citevae.errors import DataError, reason

__all__ = ["StoredScreen", "open_screen"]


@final
@dataclass(frozen=True)
class StoredScreen:
    """A screen's labels in memory, and its values in their file.

    Attributes:
        path: The file or folder.
        labels: An AnnData without values.
        group: The open file.
        progress: Whether to show how far a read of all values is.
    """

    path: Path
    labels: AnnData
    group: Any
    progress: bool

    def rows(
        self,
        chosen: Int[np.ndarray, " chosen"],
        layer: str | None,
        check: Callable[[sparse.csr_matrix, str], None],
    ) -> BackedCounts:
        """The chosen rows of X or of a layer, each read and checked once.

        Args:
            chosen: Positions of the rows.
            layer: Name of a layer; None for X.
            check: Refuses a block of the rows whose values are wrong, given what to call it.

        Raises:
            DataError: The layer is missing, its arrays are, or a row cannot be read.
        """
        known = self.labels.uns[_LAYERS]
        if layer in RAW and layer not in known:
            key, where = "raw/X", ".raw"
        elif layer is not None and layer not in known:
            raise DataError(f"layer='{layer}' is not a layer; the layers are {known}.")
        else:
            key, where = ("X", "X") if layer is None else (f"layers/{layer}", f"layer '{layer}'")
        shape = (self.labels.n_obs, self.labels.n_vars)
        again = partial(_reopened, self.path.resolve(), key, shape)
        counts = BackedCounts(self._source(key, where), chosen, reopen=again)

        def checked(block: sparse.csr_matrix) -> None:
            require_whole(block, where)
            check(block, where)

        with Progress(disable=not (self.progress and Console().is_terminal), transient=True) as bar:
            task = bar.add_task(f"checking {where} of {self.path.name}", total=len(chosen))
            try:
                return counts.scan(checked, lambda n: bar.advance(task, n))
            except (OSError, ValueError, RuntimeError, IndexError, KeyError, MemoryError) as error:
                raise DataError(
                    f"'{self.path}' cannot be read to its end ({reason(error)}); it may be truncated."
                ) from error

    def _source(self, key: str, where: str) -> Any:
        """What gives rows of a matrix by slices."""
        found = found_in(self.group, key, self.path)
        if found is None:
            raise DataError(
                f"'{self.path}' has no {where}; name the layer that holds the counts with layer=."
            )
        shape = (self.labels.n_obs, self.labels.n_vars)
        kind = str(found.attrs.get("encoding-type", "array"))
        if kind == "csc_matrix":
            raise DataError(
                f"{where} of '{self.path}' is stored by column, and training reads rows; write it as CSR, "
                "for example with scipy.sparse.csr_matrix(adata.X)."
            )
        sizes = found.attrs.get("shape", ()) if kind == "csr_matrix" else getattr(found, "shape", ())
        if tuple(sizes) != shape:
            raise DataError(f"{where} of '{self.path}' is no matrix of {shape[0]} x {shape[1]} values.")
        require_real(found["data"].dtype if kind == "csr_matrix" else found.dtype, where)
        if kind != "csr_matrix":
            require_chunks(self.path, where, {"values": found})
        return _rows_of(found)


_LAYERS = "pyro_citevae_layers"


def open_screen(path: str | Path, progress: bool = False, raw: bool = False) -> StoredScreen:
    """Opens an h5ad file or a zarr folder, and reads its labels.

    Args:
        path: The file or folder.
        progress: Whether later reads of all values show how far they are.
        raw: Whether the values are those in ``.raw``, unless there is a layer of that name.

    Raises:
        DataError: It is missing, truncated, or not written by AnnData.
    """
    place = Path(path)
    group = group_of(place)
    missing = [name for name in ("obs", "var") if name not in group]
    if missing:
        raise DataError(f"'{path}' has no '{missing[0]}', which AnnData writes; write it with AnnData again.")
    require_whole_file(place, group)
    try:
        tables: dict[str, Any] = {name: read_elem(group[name]) for name in ("obs", "var")}
        is_raw = raw and not any(name in group.get("layers", ()) for name in RAW)
        if is_raw and "raw" in group:
            tables["var"] = read_elem(group["raw/var"])
        labels = AnnData(**tables)
        if "uns" in group and "time_unit" in group["uns"]:
            labels.uns["time_unit"] = read_elem(group["uns/time_unit"])
        labels.uns[_LAYERS] = sorted(group["layers"].keys()) if "layers" in group else []
    except Exception as error:
        raise DataError(
            f"the labels of '{path}' cannot be read ({reason(error)}); write it again."
        ) from error
    for name in labels.uns[_LAYERS]:  # without values, for layouts that look for one
        labels.layers[name] = sparse.csr_matrix(labels.shape, dtype=np.float32)
    return StoredScreen(place, labels, group, progress)


def _rows_of(found: Any) -> Any:
    """What gives rows of a stored matrix by slices."""
    return sparse_dataset(found) if found.attrs.get("encoding-type") == "csr_matrix" else found


def _reopened(path: Path, key: str, shape: tuple[int, int]) -> Any:
    """What gave rows of a matrix before it was copied or pickled, opened again.

    Raises:
        DataError: The file is gone, or holds another matrix now.
    """
    if not path.exists():
        raise DataError(
            f"'{path}', which holds the counts of these cells, is no longer there; put it back, or read the "
            "cells from where it is now."
        )
    found = found_in(group_of(path), key, path)
    rows = None if found is None else _rows_of(found)
    if tuple(getattr(rows, "shape", ())) != shape:
        raise DataError(
            f"'{path}' has changed since its cells were read: it held {shape[0]} x {shape[1]} counts; read "
            "the cells again."
        )
    return rows
