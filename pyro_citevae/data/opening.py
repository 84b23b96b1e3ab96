"""Opening: a file of the field, or an object in hand, as one AnnData in memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import anndata
import pandas as pd
from anndata import AnnData

from pyro_citevae.data.whole_matrices import require_whole_file
from pyro_citevae.errors import DataError, reason

__all__ = ["in_hand", "open_anndata", "open_h5ad", "raw_as_anndata"]

RAW = ("raw", "raw/X")
"""What ``layer=`` calls the counts in ``.raw``."""

_THEN = "add the labels to obs, and write an h5ad"
_UNPACK = "is packed; unpack it first, for example with"
_OTHERS = {
    ".h5mu": "holds several modalities; write the one with counts, labels in its obs, as in "
    "mudata.read('{path}')['rna'].write_h5ad('rna.h5ad')",
    ".csv": f"is a table; read it with anndata.io.read_csv('{{path}}'), {_THEN}",
    ".tsv": f"is a table; read it with anndata.io.read_text('{{path}}'), {_THEN}",
    ".txt": f"is a text; read it with anndata.io.read_text('{{path}}'), {_THEN}",
    ".mtx": f"is a matrix without labels; read its folder with scanpy.read_10x_mtx, {_THEN}",
    ".h5": f"may be of Cell Ranger; read it with scanpy.read_10x_h5('{{path}}'), {_THEN}",
    ".loom": "is a loom file; read it with anndata.io.read_loom('{path}') and write an h5ad",
    ".rds": "is of R; write it as h5ad there, for example with anndataR::write_h5ad",
    ".h5seurat": "is of Seurat; write it as h5ad there, for example with anndataR::write_h5ad",
    ".zip": f"{_UNPACK} unzip {{path}}",
    ".gz": f"{_UNPACK} gunzip {{path}}",
    ".bz2": f"{_UNPACK} bunzip2 {{path}}",
    ".xz": f"{_UNPACK} unxz {{path}}",
    ".tar": f"{_UNPACK} tar -xf {{path}}",
}


def open_h5ad(path: str | Path) -> AnnData:
    """Reads an h5ad file.

    Raises:
        DataError: The file is missing, truncated, or not an h5ad.
    """
    if not _is(Path.is_file, path):
        raise DataError(f"'{path}' is not a file; give the path of an h5ad.")
    _require_known(Path(path))
    return _read(anndata.read_h5ad, path, "h5ad", "it may be truncated")


def open_anndata(path: str | Path) -> AnnData:
    """Reads an h5ad file, or a zarr folder that AnnData wrote.

    Raises:
        DataError: It is missing, truncated, or of another kind; the sentence says how to write an h5ad of it.
    """
    place = Path(path)
    if not _is(Path.is_dir, path):
        return open_h5ad(path)
    if not any((place / name).exists() for name in (".zgroup", "zarr.json", ".zattrs")):
        raise DataError(
            f"'{path}' is a folder and no zarr; give an h5ad or a zarr that AnnData wrote (a folder of Cell "
            "Ranger is read with scanpy.read_10x_mtx)."
        )
    return _read(anndata.read_zarr, path, "zarr", "write it again")


def in_hand(given: Any, said: str) -> AnnData:
    """An AnnData in memory of what was handed in: itself, or a lazy or a backed one, read.

    Args:
        given: What was handed in.
        said: The public expression that was given it.

    Raises:
        DataError: It is a path, a MuData or something else.
    """
    if isinstance(given, str | Path):
        raise DataError(
            f"{said}({str(given)!r}) is a path; open it with anndata.read_h5ad, or use from_disk."
        )
    modalities = getattr(given, "mod", None)
    if isinstance(modalities, Mapping) and (names := list(modalities)):
        raise DataError(
            f"{said}(mudata) holds the modalities {', '.join(map(str, names))}; give the one with counts, as "
            f"in mudata['{names[0]}'], with the labels in its obs (mudata.pull_obs())."
        )
    if not isinstance(given, AnnData):
        raise DataError(f"{said}({type(given).__name__}) is no AnnData; give cells x genes as an AnnData.")
    lazy = not isinstance(given.obs, pd.DataFrame) or not isinstance(given.var, pd.DataFrame)
    if not (lazy or given.isbacked):
        return given
    if given.isbacked:
        require_whole_file(Path(str(given.filename)))
    try:
        return given.to_memory()
    except Exception as error:
        raise DataError(
            f"{said}(adata) cannot be read into memory ({reason(error)}); use from_disk for its file."
        ) from error


def raw_as_anndata(adata: AnnData) -> AnnData:
    """The counts in ``.raw`` with their genes, under the labels of the cells.

    Raises:
        DataError: There is no ``.raw``.
    """
    if adata.raw is None:
        raise DataError("layer='raw' is neither a layer nor is there a .raw; name the layer of the counts.")
    made = AnnData(adata.raw.X, obs=cast(pd.DataFrame, adata.obs), var=adata.raw.var.copy())
    made.uns.update({key: adata.uns[key] for key in ("time_unit",) if key in adata.uns})
    return made


def _is(kind: Callable[[Path], bool], path: str | Path) -> bool:
    """Whether a path is of a kind; one that cannot be looked at, such as too long a name, is of none."""
    try:
        return kind(Path(path))
    except OSError:
        return False


def _read(read: Callable[[Any], AnnData], path: str | Path, kind: str, mend: str) -> AnnData:
    """What a reader makes of a place; whatever it raises is one sentence."""
    require_whole_file(Path(path))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*names are not unique")
            return read(path)
    except Exception as error:
        raise DataError(f"'{path}' cannot be read as {kind} ({reason(error)}); {mend}.") from error


def _require_known(path: Path) -> None:
    """Refuses a file of another kind, with what makes an h5ad of it."""
    with path.open("rb") as file:
        start = file.read(8)
    if start == b"\x89HDF\r\n\x1a\n" and path.suffix not in (".h5mu", ".h5", ".loom", ".h5seurat"):
        return
    said = _OTHERS.get(path.suffix.casefold(), "")
    if start[:2] == b"\x1f\x8b":
        said = _OTHERS[".gz"]
    if said:
        raise DataError(f"'{path}' {said.format(path=path)}.")
