"""HDF5 files, made in memory and written to disk in one go.

Where a disk refuses a write, HDF5 fails when the file is closed, and may take the process with it. Memory
refuses nothing, and the one write that remains is Python's own. What it writes is the content and no view of
it: Python 3.12 crashes where an error takes a view along to the end of the process.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xarray as xr
from h5netcdf import File as NetCDF  # type: ignore[attr-defined]
from h5py import File  # type: ignore[attr-defined]
from xarray.backends import H5NetCDFStore

from pyro_citevae.kinds import MARK, Kind

__all__ = ["hdf5_file", "netcdf", "write_netcdf"]


@contextmanager
def hdf5_file(path: Path, kind: Kind) -> Iterator[File]:
    """An empty file to fill, which is written when the block ends well.

    Args:
        path: Where.
        kind: What it says that it is.

    Raises:
        OSError: The disk refuses.
    """
    content = io.BytesIO()
    with File(content, "w") as file:
        yield file
        file.attrs[MARK] = kind.said
    path.write_bytes(content.getvalue())


def netcdf(groups: xr.Dataset | xr.DataTree) -> bytes:
    """A data set, or a tree with a group for each, as the content of a netCDF file.

    Example:
        >>> made = xr.Dataset({"a": ("x", [1.0, 2.0])})
        >>> xr.open_dataset(io.BytesIO(netcdf(made)), engine="h5netcdf").identical(made)
        True
    """
    content = io.BytesIO()
    tree = groups if isinstance(groups, xr.DataTree) else xr.DataTree(groups)
    with NetCDF(content, "w") as file:
        for node in tree.subtree:
            group = H5NetCDFStore(file, group=node.path, mode="a")
            node.to_dataset(inherit=node is tree).dump_to_store(group)
    return content.getvalue()


def write_netcdf(groups: xr.Dataset | xr.DataTree, path: Path) -> None:
    """Writes :func:`netcdf`.

    Raises:
        OSError: The disk refuses.
    """
    path.write_bytes(netcdf(groups))
