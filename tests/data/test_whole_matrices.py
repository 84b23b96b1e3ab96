"""A matrix whose arrays do not fit each other is refused in one sentence before anything reads it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import pytest
from anndata import AnnData
from broken_files import BREAKS, broken_matrix, write_broken
from named_cells import LABELS, screen
from scipy import sparse
from watched import Watched, watched

from pyro_citevae.data import Trajectories, open_anndata, open_h5ad
from pyro_citevae.data.anndata_io import padded
from pyro_citevae.data.columns import Columns
from pyro_citevae.data.inspection import proposed
from pyro_citevae.errors import CiteVAEError, DataError

HALF = LABELS[2:] + LABELS[:2]  # so that excluded cells lie between others


def whole(form: type = sparse.csr_matrix) -> AnnData:
    made = screen(HALF)
    made.X = form(made.X)
    return made


def sentences_of_file(path: str) -> dict[str, str]:
    """What is said of a broken file in each way to read it; what it gave where nothing is said."""
    ways: dict[str, Any] = {
        "memory": lambda: Trajectories.from_anndata(open_anndata(path)),
        "memory, without some": lambda: Trajectories.from_anndata(open_anndata(path), exclude="C"),
        "backed": lambda: Trajectories.from_anndata(anndata.read_h5ad(path, backed="r")),
        "disk": lambda: Trajectories.from_disk(path, progress=False),
        "disk, without some": lambda: Trajectories.from_disk(path, progress=False, exclude="C"),
        "disk, some genes": lambda: Trajectories.from_disk(path, progress=False, most_genes=3),
    }
    return {name: said_of(way) for name, way in ways.items()}


def put_in(adata: AnnData, matrix: sparse.spmatrix) -> None:
    """Makes it the counts; anndata would look at the shape of what it is given."""
    if None in adata.layers._data:  # from anndata 0.13 on
        adata.layers._data[None] = matrix
    else:
        adata._X = matrix


def sentences_of_matrix(what: str, form: str) -> dict[str, str]:
    """What is said of an AnnData in memory with a broken matrix."""
    adata, layered = whole(getattr(sparse, form)), whole()
    schema = Trajectories.from_anndata(adata).schema
    matrix = broken_matrix(adata.X, what)
    put_in(adata, matrix)
    layered.layers._data["counts"] = matrix
    ways: dict[str, Any] = {
        "whole": lambda: Trajectories.from_anndata(adata),
        "without some": lambda: Trajectories.from_anndata(adata, exclude="C"),
        "for a schema": lambda: Trajectories.from_anndata(adata, schema=schema),
        "of a layer": lambda: Trajectories.from_anndata(layered, layer="counts"),
    }
    said = {name: said_of(way) for name, way in ways.items()}
    for one in (adata, layered):
        proposed(one, Columns())
    return said


def padded_with(what: str) -> str:
    adata = whole()
    schema = Trajectories.from_anndata(adata).schema
    few = adata[:, 1:].copy()
    put_in(few, broken_matrix(few.X, what))
    return said_of(lambda: padded(few, schema, "cells.h5ad"))


def said_of(way: Any) -> str:
    try:
        return f"nothing: {way()}"
    except CiteVAEError as error:
        return str(error)
    except Exception as error:
        return f"nothing: {error!r}"


@pytest.fixture(scope="module")
def of_file() -> Iterator[Watched]:
    with watched(sentences_of_file) as one:
        yield one


@pytest.fixture(scope="module")
def of_matrix() -> Iterator[Watched]:
    with watched(sentences_of_matrix) as one:
        yield one


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_file_is_refused_in_one_sentence_however_it_is_read(
    of_file: Watched, tmp_path: Path, what: str
) -> None:
    write_broken(whole(), tmp_path / "screen.h5ad", what)
    said = of_file(str(tmp_path / "screen.h5ad"))
    assert isinstance(said, dict), said
    for way, sentence in said.items():
        if way == "backed" and "nothing: " in sentence:
            continue  # anndata opens that file, and says so itself
        assert sentence.endswith("."), (way, sentence)
        assert "\n" not in sentence, (way, sentence)
        assert "nothing: " not in sentence, (way, sentence)


@pytest.mark.parametrize("form", ["csr_matrix", "csc_matrix", "csr_array"])
@pytest.mark.parametrize("what", [one for one in BREAKS if broken_matrix(whole().X, one) is not None])
def test_a_broken_matrix_in_memory_is_refused_before_a_row_is_taken(
    of_matrix: Watched, what: str, form: str
) -> None:
    said = of_matrix(what, form)
    assert isinstance(said, dict), said
    for way, sentence in said.items():
        assert "is no whole sparse matrix" in sentence, (way, sentence)


def test_a_broken_matrix_is_not_padded() -> None:
    with watched(padded_with) as one:
        assert "X is no whole sparse matrix" in one("a column far beyond")


def test_a_layer_of_truth_values_that_is_not_read_stops_nothing(tmp_path: Path) -> None:
    adata = whole()
    adata.layers["seen"] = adata.X.astype(bool)
    adata.write_h5ad(tmp_path / "screen.h5ad")
    expected = Trajectories.from_anndata(whole())
    assert Trajectories.from_anndata(open_h5ad(tmp_path / "screen.h5ad")).digest == expected.digest
    assert Trajectories.from_disk(tmp_path / "screen.h5ad", progress=False).n_cells == expected.n_cells


@pytest.mark.parametrize("kind", ["pipe", "loop", "device", "long name", "folder"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "screen.h5ad"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "long name":
        path = tmp_path / ("x" * 5000)
    else:
        path.mkdir()
    for read in (open_anndata, lambda one: Trajectories.from_disk(one, progress=False)):
        with pytest.raises(DataError, match=r"^'.*\.$"):
            read(path)


def test_a_dense_file_of_half_precision_is_read_as_in_memory(tmp_path: Path) -> None:
    adata = screen()
    adata.X = adata.X.astype("float16")
    adata.write_h5ad(tmp_path / "screen.h5ad")
    held = Trajectories.from_anndata(open_h5ad(tmp_path / "screen.h5ad"))
    stored = Trajectories.from_disk(tmp_path / "screen.h5ad", progress=False)
    assert (held.values.toarray() == stored.values.toarray()).all()
