"""Arrays on disk, memory-mapped: what cannot be mapped as it lies is converted once."""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from pyro_citevae.errors import DataError, RunError, reason
from pyro_citevae.whole_files import aside

__all__ = ["cached", "npz_arrays", "write_bytes_array"]

_SOURCE = "source.json"


def cached(folder: Path, source: Mapping[str, object], make: Callable[[Path], None]) -> dict[str, np.ndarray]:
    """The arrays of a folder, memory-mapped; it is made first if it is missing or of another source.

    Args:
        folder: The folder of ``.npy`` files.
        source: What they are made from; values that JSON knows.
        make: Fills an empty folder with them.

    Raises:
        DataError: The folder cannot be written or read.
    """
    try:
        fresh = json.loads((folder / _SOURCE).read_text()) == json.loads(json.dumps(source))
    except (OSError, ValueError):
        fresh = False
    if not fresh:
        try:
            with aside(folder, overwrite=True) as empty:
                empty.mkdir()
                make(empty)
                (empty / _SOURCE).write_text(json.dumps(source))
        except RunError as error:
            raise DataError(f"{error} Name another place by cache=.") from error
    try:
        return {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
    except (OSError, ValueError) as error:
        raise DataError(f"'{folder}' cannot be read ({reason(error)}); delete it to make it anew.") from error


def write_bytes_array(path: Path, shape: tuple[int, ...], parts: Iterable[UInt8[np.ndarray, ...]]) -> None:
    """Writes an array of bytes as ``.npy``, part by part.

    A memory map that is written to ends the process where the disk is full; this raises.

    Args:
        path: The file.
        shape: Shape of the whole array.
        parts: Its parts along the first axis, in their order.

    Raises:
        OSError: The disk refuses.
    """
    head = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, head)
        for part in parts:
            file.write(np.ascontiguousarray(part).data)


def npz_arrays(path: Path, keys: Iterable[str], cache: Path) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz``, memory-mapped from a folder of ``.npy``, since a zip cannot be mapped.

    Args:
        path: The archive.
        keys: Arrays that it must have.
        cache: Where the folder is made.

    Raises:
        DataError: It is no archive, or an array is missing.
    """
    status = path.stat()
    source = {"path": str(path.resolve()), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}

    def unpack(folder: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as packed, (folder / Path(member).name).open("wb") as plain:
                    shutil.copyfileobj(packed, plain, 2**20)

    try:
        arrays = cached(cache / path.stem, source, unpack)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"'{path}' is no readable .npz archive ({reason(error)}); fetch it anew.") from error
    missing = [key for key in keys if key not in arrays]
    if missing:
        raise DataError(
            f"'{path}' has no array '{missing[0]}', but {', '.join(arrays)}; is it of Temporal-Causal3DIdent?"
        )
    return arrays
