"""Stored groups: an h5ad or a zarr is opened, and what it holds is looked up, each fault in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zarr
from h5py import File  # type: ignore[attr-defined]

from pyro_citevae.errors import DataError, reason

__all__ = ["found_in", "group_of"]


def group_of(path: Path) -> Any:
    """The open file, which a ``with`` closes.

    Args:
        path: An h5ad file or a zarr folder.

    Raises:
        DataError: It is missing, truncated, or neither a file nor a folder.
    """
    try:
        is_folder, is_file, there = path.is_dir(), path.is_file(), path.exists()
    except OSError as error:
        raise DataError(f"'{path}' cannot be opened ({reason(error)}); give the path of an h5ad.") from error
    if not there:
        raise DataError(f"'{path}' does not exist; give the path of an h5ad or a zarr.")
    if not (is_folder or is_file):  # to open a pipe is to wait for one who writes into it
        raise DataError(f"'{path}' is neither a file nor a folder; write the cells as h5ad, and give that.")
    whole = path.resolve()  # from another folder, zarr would find no chunk, which reads as zeros
    try:
        return zarr.open_group(str(whole), mode="r") if is_folder else File(whole, "r")
    except Exception as error:
        kind = "zarr" if is_folder else "h5ad"
        raise DataError(
            f"'{path}' cannot be read as {kind} ({reason(error)}); it may be truncated."
        ) from error


def found_in(group: Any, key: str, path: Path) -> Any:
    """What a group holds under a key; None for nothing.

    Args:
        group: The open file, or a group of it.
        key: A name, or names joined by ``/``.
        path: The file, for messages.

    Raises:
        DataError: It is there and cannot be opened, such as a link to itself.
    """
    try:
        return group.get(key)
    except Exception as error:
        raise DataError(f"{key} of '{path}' cannot be opened ({reason(error)}); write it again.") from error
