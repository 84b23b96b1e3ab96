"""Counts that stay on disk: the same screen, the same loss, little memory, and files that are refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from anndata import AnnData
from scipy import sparse
from screens import as_anndata, simulated

import pyro_citevae as cv
from pyro_citevae.data import Batch, Trajectories
from pyro_citevae.data.backed import BackedCounts
from pyro_citevae.errors import DataError, FitError
from pyro_citevae.guides import MeanField
from pyro_citevae.models import CiteVAE

QUICK = {"max_epochs": 4, "batch_size": 50, "progress": False}


def screen(n_cells: int = 300) -> AnnData:
    data = simulated(n_cells=n_cells, n_genes=12, seed=0)
    adata = as_anndata(data, plate=pd.Categorical(np.where(np.arange(n_cells) % 2, "a", "b")))
    adata.layers["counts"] = adata.X
    adata.uns["time_unit"] = "day"
    return adata


@pytest.fixture(scope="module")
def adata() -> AnnData:
    """Cells sorted by perturbation, as files often are, with names that sort otherwise."""
    made = screen()
    return made[np.argsort(made.obs.perturbation, kind="stable")].copy()


@pytest.fixture(scope="module", params=["h5ad", "zarr", "dense h5ad"])
def path(request: pytest.FixtureRequest, adata: AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind = request.param.split()[-1]
    found = tmp_path_factory.mktemp("files") / f"screen.{kind}"
    written = adata.copy()
    if request.param.startswith("dense"):
        written.X = written.X.toarray()
    written.write_h5ad(found) if kind == "h5ad" else written.write_zarr(found)
    return found


READINGS = [
    {},
    {"time": "time", "batch": "plate"},
    {"time": "time", "layer": "counts", "exclude": ("gene_1",)},
    {"most_genes": 7},
]


@pytest.mark.parametrize("reading", READINGS, ids=str)
def test_a_screen_on_disk_is_the_screen_in_memory(path: Path, adata: AnnData, reading: dict) -> None:
    held, stored = Trajectories.from_anndata(adata, **reading), Trajectories.from_disk(path, **reading)
    assert isinstance(stored.values, BackedCounts)
    assert stored.schema.genes == held.schema.genes
    assert stored.schema.panel_share == pytest.approx(held.schema.panel_share)
    assert stored.schema.time_unit == held.schema.time_unit
    for name in ("library", "row_cell", "row_step", "condition", "technical", "names"):
        assert np.array_equal(getattr(stored, name), getattr(held, name)), name
    assert np.array_equal(stored.values.toarray(), held.values.toarray())
    assert np.array_equal(np.ravel(stored.values.sum(0)), np.ravel(held.values.sum(0)))
    chosen = np.array([7, 3, 250, 3][: 2 if len(held.names) < 260 else 4])
    one, two = stored.batch(chosen), held.batch(chosen)
    assert torch.equal(one.x.dense, two.x.dense)
    assert torch.equal(one.library, two.library)


def test_parts_of_a_screen_stay_on_disk(path: Path, adata: AnnData) -> None:
    stored = Trajectories.from_disk(path, time="time")
    train, test = stored.hold_out(times=[3])
    held = Trajectories.from_anndata(adata, time="time").hold_out(times=[3])
    for one, two in zip((train, test, train.controls()), (*held, held[0].controls()), strict=True):
        assert isinstance(one.values, BackedCounts)
        assert np.array_equal(one.values.toarray(), two.values.toarray())
    assert len({stored.digest, train.digest, test.digest}) == 3
    assert Trajectories.from_disk(path, time="time").digest == stored.digest


def test_other_counts_have_another_digest(adata: AnnData, tmp_path: Path) -> None:
    digests = []
    for i in range(2):
        changed = adata.copy()
        changed.X[5, 5] += i
        changed.write_h5ad(tmp_path / "screen.h5ad")
        digests.append(Trajectories.from_disk(tmp_path / "screen.h5ad").digest)
    assert digests[0] != digests[1]


def fitted(data: Trajectories, **options: Any) -> cv.Posterior:
    model = CiteVAE(data.schema, n_programs=2, hidden=8)
    return cv.fit(model, MeanField(model, hidden=8), data, **{**QUICK, **options})


def test_training_from_disk_is_training_from_memory_in_the_same_order(adata: AnnData, tmp_path: Path) -> None:
    """Where names sort as the file does, blocks are the same in memory, and so is every number."""
    ordered = adata.copy()
    ordered.obs_names = [f"cell_{i:04d}" for i in range(ordered.n_obs)]
    ordered.write_zarr(tmp_path / "screen.zarr")
    stored = Trajectories.from_disk(tmp_path / "screen.zarr", time="time")
    held = Trajectories.from_anndata(ordered, time="time")
    pd.testing.assert_frame_equal(fitted(stored).history, fitted(held, sampler="blocks").history)


def test_the_loss_curve_of_blocks_is_that_of_a_full_shuffle(tmp_path: Path) -> None:
    """A file sorted by perturbation, read in blocks: the bound climbs as with a uniform order.

    The tolerance is 5 % of the climb; another seed moves the bound by as much.
    """
    made = screen(800)
    made = made[np.argsort(made.obs.perturbation, kind="stable")].copy()
    made.obs_names = [f"cell_{i:04d}" for i in range(made.n_obs)]
    made.write_h5ad(tmp_path / "screen.h5ad")
    stored = Trajectories.from_disk(tmp_path / "screen.h5ad", time="time")
    held = Trajectories.from_anndata(made, time="time")
    disk, memory = (fitted(one, max_epochs=8).history["held_out"] for one in (stored, held))
    climb = memory.iloc[-1] - memory.iloc[0]
    assert climb > 1
    assert abs((disk - disk.iloc[-1]) - (memory - memory.iloc[-1])).iloc[3:].max() < 0.1 * climb


def test_any_iterable_of_batches_trains(adata: AnnData) -> None:
    class Halves:
        """Two minibatches an epoch, in a fixed order."""

        def __init__(self, data: Trajectories) -> None:
            self.data = data

        def __len__(self) -> int:
            return 2

        def __iter__(self) -> Any:
            yield from (self.data.batch(part) for part in np.array_split(np.arange(self.data.n_cells), 2))

    data = Trajectories.from_anndata(adata, time="time")
    history = fitted(data, batches=Halves(data), validation=0.0, max_epochs=6).history
    assert history["training"].iloc[-1] > history["training"].iloc[0]
    listed: list[Batch] = list(Halves(data))
    pd.testing.assert_frame_equal(history, fitted(data, batches=listed, validation=0.0, max_epochs=6).history)


@pytest.mark.parametrize(
    ("batches", "validation", "phrase"),
    [
        (lambda batch: [], 0.0, r"fit\(batches=list\) must have a length"),
        (lambda batch: iter([batch]), 0.0, r"fit\(batches=list_iterator\) must have a length"),
        (lambda batch: [batch], 0.1, "pass validation=0"),
    ],
)
def test_batches_that_cannot_train_are_refused(
    adata: AnnData, batches: Any, validation: float, phrase: str
) -> None:
    data = Trajectories.from_anndata(adata)
    with pytest.raises(FitError, match=phrase):
        fitted(data, batches=batches(data.batch()), validation=validation)


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_scdataset_trains(adata: AnnData, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("scdataset")
    from pyro_citevae.data.collections import from_scdataset

    found = tmp_path / f"screen.{kind}"
    adata.write_h5ad(found) if kind == "h5ad" else adata.write_zarr(found)
    data = Trajectories.from_disk(found, time="time")
    batches = from_scdataset(data, batch_size=50, block_size=8, fetch_factor=2)
    seen = np.concatenate([batch.index for batch in batches])
    assert sorted(seen) == list(range(data.n_cells))
    for batch in batches:
        assert torch.equal(batch.x.dense, data.batch(batch.index.numpy()).x.dense)
    history = fitted(data, batches=batches, validation=0.0, max_epochs=6).history
    assert history["training"].iloc[-1] > history["training"].iloc[0]


def test_annbatch_trains(adata: AnnData, tmp_path: Path) -> None:
    pytest.importorskip("annbatch")
    from pyro_citevae.data.collections import from_annbatch

    adata.write_zarr(tmp_path / "screen.zarr")
    data = Trajectories.from_disk(tmp_path / "screen.zarr", time="time")
    batches = from_annbatch(data, batch_size=50, chunk_size=10, preload_nchunks=10)
    seen = np.concatenate([batch.index for batch in batches])
    assert sorted(seen) == list(range(data.n_cells))
    for batch in batches:
        assert torch.equal(batch.x.dense, data.batch(batch.index.numpy()).x.dense)
    history = fitted(data, batches=batches, validation=0.0, max_epochs=6).history
    assert history["training"].iloc[-1] > history["training"].iloc[0]


# Files that are refused


def lacking(name: str) -> Callable[[Path], None]:
    return lambda found: shutil.rmtree(found / name)


def shorter(found: Path) -> None:
    group = zarr.open_group(str(found), mode="a")["X"]
    group["data"].resize((len(group["data"][:]) - 5,))


def without_a_chunk(found: Path) -> None:
    max((found / "X/data").rglob("*"), key=lambda one: one.stat().st_size if one.is_file() else 0).unlink()


@pytest.mark.parametrize(
    ("spoil", "phrase"),
    [
        (lacking("obs"), "has no 'obs', which AnnData writes"),
        (lacking("var"), "has no 'var', which AnnData writes"),
        (lacking("X"), "has no X; name the layer that holds the counts with layer="),
        (lacking("X/indices"), "X of .* lacks the array 'indices'"),
        (lacking("X/indptr"), "X of .* lacks the array 'indptr'"),
        (shorter, "its arrays are of other lengths; it may be truncated"),
        (without_a_chunk, "the array 'data' of X in .* lacks 1 of its 1 chunks"),
        (lacking("obs/perturbation"), "the labels of .* cannot be read"),
        (shutil.rmtree, "does not exist; give the path of an h5ad or a zarr"),
    ],
)
@pytest.mark.filterwarnings("ignore:Object at .* is not recognized")
def test_a_zarr_without_what_it_needs_is_refused(
    adata: AnnData, tmp_path: Path, spoil: Callable[[Path], Any], phrase: str
) -> None:
    adata.write_zarr(tmp_path / "screen.zarr")
    for consolidated in tmp_path.rglob("zarr.json"):  # what lists the arrays, whether they are there or not
        text = consolidated.read_text()
        if '"consolidated_metadata"' in text:
            consolidated.write_text(_without_consolidated(text))
    (tmp_path / "screen.zarr/.zmetadata").unlink(missing_ok=True)
    spoil(tmp_path / "screen.zarr")
    with pytest.raises(DataError, match=phrase):
        Trajectories.from_disk(tmp_path / "screen.zarr")


def _without_consolidated(text: str) -> str:
    import json

    content = json.loads(text)
    content.pop("consolidated_metadata", None)
    return json.dumps(content)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_h5ad_is_refused(adata: AnnData, tmp_path: Path, share: float) -> None:
    adata.write_h5ad(tmp_path / "screen.h5ad")
    content = (tmp_path / "screen.h5ad").read_bytes()
    (tmp_path / "screen.h5ad").write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match="truncated"):
        Trajectories.from_disk(tmp_path / "screen.h5ad")


def by_column(adata: AnnData) -> None:
    adata.X = sparse.csc_matrix(adata.X)


def fractional(adata: AnnData) -> None:
    adata.X.data[7] = 0.5


def infinite(adata: AnnData) -> None:
    adata.X.data[7] = np.inf


@pytest.mark.parametrize(
    ("spoil", "reading", "phrase"),
    [
        (by_column, {}, "stored by column, and training reads rows; write it as CSR"),
        (fractional, {}, "X holds fractional values such as 0.5"),
        (infinite, {}, "X holds NaN or infinite values"),
        (None, {"layer": "umi"}, "layer='umi' is not a layer; the layers are \\['counts'\\]"),
        (None, {"perturbation": "guide"}, "perturbation='guide' is not a column of obs"),
        (None, {"control": "NT"}, "no control cell"),
    ],
)
def test_a_screen_on_disk_is_checked_like_one_in_memory(
    adata: AnnData, tmp_path: Path, spoil: Callable | None, reading: dict, phrase: str
) -> None:
    made = adata.copy()
    if spoil is not None:
        spoil(made)
    made.write_h5ad(tmp_path / "screen.h5ad")
    with pytest.raises(DataError, match=phrase):
        Trajectories.from_disk(tmp_path / "screen.h5ad", **reading)


def test_a_read_asks_for_little_of_the_file(adata: AnnData, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "screen.h5ad")
    with h5py.File(tmp_path / "screen.h5ad") as file:
        source = anndata.io.sparse_dataset(file["X"])
        asked: list[int] = []

        class Noted:
            shape = source.shape

            def __getitem__(self, rows: slice) -> Any:
                asked.append(rows.stop - rows.start)
                return source[rows]

        rows = np.array([200, 10, 11, 13, 10])
        read = BackedCounts(Noted(), rows).in_memory()
    assert np.array_equal(read.toarray(), adata.X[rows].toarray())
    assert sorted(asked) == [1, 4]
