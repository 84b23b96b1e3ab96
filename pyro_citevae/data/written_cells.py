"""Cells as an h5ad file, made in memory and written in one go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_citevae.hdf5_files import hdf5_file
from pyro_citevae.kinds import Kind

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["write_cells"]


def write_cells(adata: AnnData, path: Path, kind: Kind, **storage: Any) -> None:
    """Writes an h5ad file as ``adata.write_h5ad`` does.

    Args:
        adata: The cells.
        path: The file.
        kind: What it says that it is.
        **storage: How its arrays are stored, such as ``compression="gzip"``.

    Raises:
        OSError: The disk refuses.
    """
    from anndata.io import write_elem

    adata.strings_to_categoricals()
    with hdf5_file(path, kind) as file:
        write_elem(file, "/", adata, dataset_kwargs=storage)
        if adata.raw is None and "raw" in file:
            del file["raw"]  # which says that there is nothing, and a backed reader stumbles over it
