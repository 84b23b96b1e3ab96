"""Broken files of a screen: arrays of a sparse matrix that do not fit, links to nowhere, ends cut off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from anndata import AnnData
from scipy import sparse

__all__ = ["BREAKS", "broken_matrix", "write_broken"]

_HUGE = 2**31 - 1


def _at(name: str, place: int, value: float) -> Callable[[dict[str, np.ndarray]], None]:
    """One entry of an array changed."""

    def change(arrays: dict[str, np.ndarray]) -> None:
        if len(arrays[name]):
            arrays[name] = arrays[name].copy()
            arrays[name][place % len(arrays[name])] = value

    return change


def _made(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, np.ndarray]], None]:
    """An array made into another."""

    def apply(arrays: dict[str, np.ndarray]) -> None:
        arrays[name] = change(arrays[name])

    return apply


_ARRAYS: dict[str, Callable[[dict[str, np.ndarray]], None]] = {
    "a column beyond the last": _at("indices", 3, 1000),
    "a column far beyond": _at("indices", 3, _HUGE),
    "a column below zero": _at("indices", 3, -1),
    "a start far beyond": _at("indptr", 3, 10**9),
    "a start below zero": _at("indptr", 3, -1000),
    "starts that fall": _at("indptr", 5, 1),
    "a first start above zero": _at("indptr", 0, 2),
    "a last start too low": _at("indptr", -1, 3),
    "a last start too high": _at("indptr", -1, 10**6),
    "starts that are one too few": _made("indptr", lambda x: x[:-1]),
    "starts that are none": _made("indptr", lambda x: x[:0]),
    "starts with fractions": _made("indptr", lambda x: x + 0.5),
    "columns with fractions": _made("indices", lambda x: x + 0.5),
    "columns in a table": _made("indices", lambda x: x[:, None]),
    "columns that are too few": _made("indices", lambda x: x[:-2]),
    "values that are too many": _made("data", lambda x: np.append(x, x)),
}


def _to_itself(name: str) -> Callable[[h5py.File], None]:
    def link(file: h5py.File) -> None:
        del file[name]
        file[name] = h5py.SoftLink(f"/{name}")

    return link


def _shape(*shape: int) -> Callable[[h5py.File], None]:
    def write(file: h5py.File) -> None:
        file["X"].attrs["shape"] = np.array(shape)

    return write


def _group(file: h5py.File) -> None:
    del file["X"]
    file.create_group("X")


def _elsewhere(file: h5py.File) -> None:
    del file["X"]
    file["X"] = h5py.ExternalLink("nowhere.h5", "/X")


def _encoding(file: h5py.File) -> None:
    file["X"].attrs["encoding-type"] = "odd"


def _typed(kind: str) -> Callable[[h5py.File], None]:
    def write(file: h5py.File) -> None:
        values = file["X/data"][:].astype(kind)
        del file["X/data"]
        file["X/data"] = values

    return write


_IN_FILE: dict[str, Callable[[h5py.File], None]] = {
    "X is a link to itself": _to_itself("X"),
    "columns are a link to themselves": _to_itself("X/indices"),
    "labels are a link to themselves": _to_itself("obs"),
    "X is a link to no file": _elsewhere,
    "X is an empty group": _group,
    "X is of an unknown kind": _encoding,
    "X says too few genes": _shape(12, 1),
    "X says too many cells": _shape(10**6, 6),
    "X says fewer genes than none": _shape(12, -6),
    "values are texts": _typed("S5"),
    "values are of half precision": _typed("f2"),
    "values are complex": _typed("complex64"),
    "values are truth values": _typed("bool"),
}

BREAKS = (*_ARRAYS, *_IN_FILE, *(f"cut at {share}" for share in (0.0, 0.02, 0.3, 0.7, 0.97)))
"""What a file can suffer; the first are faults of a matrix in memory, too."""


def broken_matrix(matrix: Any, what: str) -> Any:
    """A sparse matrix in memory with a fault; None where it is one of files alone."""
    if what not in _ARRAYS:
        return None
    made = matrix.copy()
    arrays = {name: getattr(made, name) for name in ("data", "indices", "indptr")}
    _ARRAYS[what](arrays)
    for name, array in arrays.items():
        setattr(made, name, array)
    return made


def write_broken(adata: AnnData, path: Path, what: str) -> None:
    """Writes an AnnData as h5ad with its X as CSR, and breaks the file."""
    whole = adata.copy()
    if not sparse.issparse(whole.X):
        whole.X = sparse.csr_matrix(whole.X)
    whole.write_h5ad(path)
    if what.startswith("cut at "):
        content = path.read_bytes()
        path.write_bytes(content[: int(float(what[7:]) * len(content))])
        return
    with h5py.File(path, "a") as file:
        if what in _IN_FILE:
            _IN_FILE[what](file)
            return
        arrays = {name: file[f"X/{name}"][:] for name in ("data", "indices", "indptr")}
        _ARRAYS[what](arrays)
        for name, array in arrays.items():
            del file[f"X/{name}"]
            file[f"X/{name}"] = array
