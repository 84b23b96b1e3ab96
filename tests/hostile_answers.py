"""What becomes of a hostile screen: read to what it says, refused in one sentence, or else a fault.

A case is run again by the line that a test prints::

    python tests/hostile_answers.py "Hostile(seed=3, faults=(('label', 4),))"
"""

from __future__ import annotations

import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from broken_files import write_broken
from hostile_screens import Hostile, Parts, made
from scipy import sparse

import pyro_citevae as cv
from pyro_citevae.data import Trajectories, open_anndata
from pyro_citevae.data.columns import Columns
from pyro_citevae.data.inspection import proposed
from pyro_citevae.errors import CiteVAEError, DataError

__all__ = ["answer"]

LONGEST = 1000  # letters of a sentence
_OF_SCHEMA = (
    *("genes", "tokens", "control", "times", "step", "time_unit", "batches", "design", "values", "grid"),
    *("dose_ranges", "dose_unit", "contexts"),
)
BY_COLUMN = "is stored by column, and training reads rows"


class FaultError(AssertionError):
    """What should not have come out."""


def answer(case: Hostile) -> tuple[str, str]:
    """``("unheld" | "refused" | "read" | "fault", what)``; the first is what AnnData itself does not take."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", RuntimeWarning)  # an overflow is no number that was read
        try:
            parts = made(case)
            adata = parts.adata()
        except Exception as error:
            return "unheld", repr(error)
        try:
            return _answered(case, parts, adata)
        except FaultError as fault:
            return "fault", str(fault)


def _answered(case: Hostile, parts: Parts, adata: AnnData) -> tuple[str, str]:
    before = _values(adata.X)
    held = _read(lambda: Trajectories.from_anndata(adata, **parts.reading), "in memory")
    _read(lambda: proposed(adata, Columns()), "inspected")
    if before is not None and not np.array_equal(before, _values(adata.X), equal_nan=True):
        raise FaultError("reading changed X")
    if isinstance(held, Trajectories):
        _require_what_is_there(adata, held, parts.reading)
        _require_same_for_its_schema(adata, held, parts.reading)
    with tempfile.TemporaryDirectory() as folder:
        _require_same_from_file(case, parts, adata, held, Path(folder))
    if not isinstance(held, Trajectories):
        return "refused", str(held)
    if case.fit:
        _require_forecast(held)
    return "read", str(held.summary())


def _read(way: Callable[[], Any], said: str) -> Any:
    """What a way of reading gives; an error of ours if it is one sentence."""
    try:
        return way()
    except CiteVAEError as error:
        text = str(error)
        if "\n" in text or not text.endswith((".", "?")) or len(text) > LONGEST or "object at 0x" in text:
            raise FaultError(f"{said}: no sentence: {text!r}") from error
        return error
    except Exception:
        raise FaultError(f"{said}: {traceback.format_exc()}") from None


def _values(X: Any) -> Any:
    """The values as double precision where they are numbers."""
    X = X.compute() if hasattr(X, "compute") else X
    dense = X.toarray() if sparse.issparse(X) else X
    if dense is None or np.ma.isMaskedArray(dense) or np.asarray(dense).dtype.kind not in "iuf":
        return None
    return np.array(dense, dtype=np.longdouble)


def _texts(column: Any) -> pd.Series:
    def text(value: Any) -> str:
        return value.decode() if isinstance(value, bytes) else str(value)

    return pd.Series(column).astype(object).map(text).str.strip()


def _require(right: Any, what: str) -> None:
    if not np.all(right):
        raise FaultError(what)


# What the AnnData says


def _require_what_is_there(adata: AnnData, data: Trajectories, reading: dict[str, Any]) -> None:
    found, schema = data.reading, data.schema
    assert found is not None and data.obs is not None
    columns, obs = found.columns, adata.obs
    at = pd.Index(adata.obs_names.astype(str)).get_indexer(data.obs.index.astype(str))
    labels = _texts(obs[columns.perturbation])
    kept = np.ones(adata.n_obs, dtype=bool)
    kept[np.setdiff1d(np.arange(adata.n_obs), at)] = False
    left_out = labels[~kept]
    _require(at >= 0, "a cell has no name of the file")
    _require(len(set(at)) == len(at) == data.n_observations, "a cell is there twice")
    words = {one.strip() for one in columns.exclude} | {"nan", "None", "", "NaT", "<NA>"}
    _require(left_out.isin(words), "a cell is left out that exclude= does not name")
    _require(sum(found.left_out.values()) == len(left_out), "cells that are left out are not counted")
    _require_values(adata, data, at, columns)
    _require_labels(labels.iloc[at].to_numpy(), data, found)
    cell = data.row_cell
    for name, index, known in (
        (columns.batch, data.technical, schema.batches),
        (columns.context, data.context, schema.contexts),
    ):
        if name is not None:
            _require(
                np.array(known)[index[cell]] == _texts(obs[name]).iloc[at].to_numpy(str), f"{name} differs"
            )
    if columns.time is not None:
        _require_times(obs[columns.time].iloc[at], data.row_times)
    batch = data.batch()
    u, library = batch.u.dense.numpy(), batch.library.numpy()
    _require(np.isfinite(u) & (u >= 0) & (u <= 100), "doses are no shares")
    _require(np.isfinite(library) & (library > 0), "library sizes are no sizes")
    _require(
        np.isfinite([schema.total, schema.step, schema.panel_share]), "the schema holds what is no number"
    )
    _require(
        schema.total > 0 and schema.step > 0 and 0 < schema.panel_share <= 1.001, "the schema is out of range"
    )
    _require(all(one.strip() == one and one for one in schema.tokens), "a token is no name")
    _require(len(set(schema.tokens)) == len(schema.tokens), "a token is there twice")
    _require(bool(str(data.summary())) and bool(repr(data)), "nothing to show")


def _require_values(adata: AnnData, data: Trajectories, at: np.ndarray, columns: Columns) -> None:
    raw = columns.layer in ("raw", "raw/X") and columns.layer not in adata.layers
    matrix, var = (adata.raw.X, adata.raw.var) if raw else (adata.X, adata.var)
    matrix = matrix if raw or columns.layer is None else adata.layers[columns.layer]
    X = _values(matrix)
    _require(X is not None, "values that are no numbers were read")
    names = pd.Index(var.index.astype(str))
    if columns.genes is not None:
        named = _texts(var[columns.genes])
        names = pd.Index(named.where(~named.isin(["nan", "None", "", "<NA>"]), names))
    genes = names.get_indexer(list(data.schema.genes))
    _require(genes >= 0, "a gene has no name of the file")
    if columns.most_genes is None:
        _require(len(genes) == len(names), "genes are lost")
    values = data.values.toarray()
    _require(values == X[at][:, genes].astype(np.float32), "values differ")
    _require(np.isfinite(values), "values are no numbers")
    if data.schema.values == "counts":
        _require(values == X[at][:, genes], "counts are rounded")
        sums = X[at].sum(1)
        sizes = sums if columns.library is None else _texts(adata.obs[columns.library]).iloc[at].astype(float)
        _require(
            np.isclose(data.library.astype(float), np.maximum(np.array(sizes, float), 1)), "libraries differ"
        )


def _require_labels(written: np.ndarray, data: Trajectories, found: Any) -> None:
    read, control = data.row_labels.astype(str), data.schema.control
    of_text: dict[str, set[str]] = {}
    for text, label in zip(written, read, strict=True):
        of_text.setdefault(text, set()).add(label)
    dosed = found.columns.dose is not None
    _require(dosed or all(len(labels) == 1 for labels in of_text.values()), "one label is read as several")
    controls = set(found.controls)
    for text, labels in of_text.items():
        if text in controls:
            _require(labels == {control}, f"the control {text!r} is read as {labels}")
        elif control in labels:
            members = re.split(r"[+_|]", text)
            neutral = {*controls, control, "ctrl", "control", *found.columns.control}
            _require(len(members) > 1 and set(members) <= neutral, f"{text!r} is read as the control")
        elif not dosed and found.columns.separator is None and re.fullmatch(r"[A-Za-z]+(\+[A-Za-z]+)*", text):
            neutral = {*controls, "ctrl"} if found.columns.layout != "plain" else controls
            named = {one for one in text.split("+") if one not in {*neutral, *found.columns.control}}
            _require(
                {one for label in labels for one in label.split("+")} == named,
                f"{text!r} is read as {labels}",
            )


def _require_times(column: pd.Series, times: np.ndarray) -> None:
    if pd.api.types.is_timedelta64_dtype(column):
        given = column.dt.total_seconds().to_numpy(float)
        given = given * (times.max() / given.max())
    else:
        given = pd.to_numeric(_texts(column), errors="coerce").to_numpy(float)
        if not np.isfinite(given).all():
            return
    _require(
        np.abs(times - given) <= 2e-5 * np.maximum(np.abs(given), np.abs(given).max() / 64), "times differ"
    )


# What is read again


def _require_same(one: Trajectories, two: Trajectories, said: str) -> None:
    for name in _OF_SCHEMA:
        _require(getattr(one.schema, name) == getattr(two.schema, name), f"{said}: schemas differ in {name}")
    for name in ("names", "row_cell", "row_step", "technical", "context", "labels"):
        _require(np.array_equal(getattr(one, name), getattr(two, name)), f"{said}: {name} differ")
    _require(np.array_equal(one.values.toarray(), two.values.toarray()), f"{said}: values differ")
    _require(np.allclose(one.library, two.library, rtol=1e-6), f"{said}: library sizes differ")
    _require(np.isclose(one.schema.panel_share, two.schema.panel_share, rtol=1e-5), f"{said}: shares differ")


def _require_same_for_its_schema(adata: AnnData, data: Trajectories, reading: dict[str, Any]) -> None:
    """A second reading, for the schema of the first, is the first."""
    of_new = ("step", "n_steps", "time_unit", "candidates", "most_genes")
    again = {name: value for name, value in reading.items() if name not in of_new}
    second = _read(lambda: Trajectories.from_anndata(adata, schema=data.schema, **again), "for its schema")
    if not isinstance(second, Trajectories):
        raise FaultError(f"for its schema: {second}")
    _require_same(data, second, "for its schema")


def _require_same_from_file(case: Hostile, parts: Parts, adata: AnnData, held: Any, folder: Path) -> None:
    path = folder / ("screen.zarr" if case.store == "zarr" and not parts.broken else "screen.h5ad")
    try:
        written = adata.copy()
        if case.store != "dense" and isinstance(written.X, np.ndarray) and written.X.dtype.kind in "iuf":
            written.X = sparse.csr_matrix(written.X)
        if parts.broken:
            write_broken(written, path, parts.broken)
        elif path.suffix == ".zarr":
            written.write_zarr(path)
        else:
            written.write_h5ad(path)
    except Exception:
        return  # AnnData does not write it
    opened = _read(lambda: Trajectories.from_anndata(open_anndata(path), **parts.reading), "opened")
    stored = _read(lambda: Trajectories.from_disk(path, progress=False, **parts.reading), "from disk")
    if isinstance(opened, Trajectories) and isinstance(stored, Trajectories):
        _require_same(opened, stored, "from disk")
    elif isinstance(opened, Trajectories) and BY_COLUMN not in str(stored):
        raise FaultError(f"read when opened, and refused from disk: {stored}")
    elif isinstance(stored, Trajectories):
        raise FaultError(f"read from disk, and refused when opened: {opened}")
    if isinstance(held, Trajectories) and isinstance(opened, Trajectories):
        _require(np.array_equal(held.values.toarray(), opened.values.toarray()), "a file holds other values")
        _require(np.array_equal(held.labels, opened.labels), "a file holds other labels")
    elif isinstance(opened, Trajectories) and "holds masked values" not in str(held):  # a file has no mask
        raise FaultError(f"read from a file, and refused in memory: {held}")
    elif isinstance(held, Trajectories) and not parts.broken:
        raise FaultError(f"read in memory, and refused from a file: {opened}")


def _require_forecast(data: Trajectories) -> None:
    """Two steps of a fit, a prediction and an effect, all of them numbers."""
    emission = {"emission": "gaussian"} if data.schema.values == "real" else {}
    model = cv.models.CiteVAE(data.schema, n_programs=2, hidden=4, **emission)
    guide = cv.guides.MeanField(model, hidden=4)
    try:
        posterior = cv.fit(model, guide, data, max_steps=2, progress=False, validation=0.0)
        asked = next(one for one in data.conditions if not one.is_control)
        cells = posterior.predict(asked, cells=data.controls(), draws=2, progress=False)
        effect = posterior.effect(asked, draws=2, progress=False)
    except DataError as error:
        raise FaultError(f"fit: {error}") from error
    except Exception:
        raise FaultError(f"fit: {traceback.format_exc()}") from None
    _require(np.isfinite(_values(cells.X)), "a predicted cell is no number")
    _require(np.isfinite(effect.to_numpy()), "an effect is no number")


if __name__ == "__main__":
    print(*answer(eval(sys.argv[1])), sep="\n")  # noqa: T201
