"""Contexts: read, selected, held out with their controls left, told of, and refused where unclear."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anndata import AnnData

import pyro_citevae as cv
from pyro_citevae.data import Criterion, Split, Trajectories, do
from pyro_citevae.data.contexts import batches_of_contexts, control_profiles, distances
from pyro_citevae.data.groups import Groups
from pyro_citevae.data.pseudobulk import level
from pyro_citevae.errors import CiteVAEWarning, DataError

SIMULATED = cv.simulate(n_cells=240, n_perturbations=3, n_contexts=3, design="snapshot", context_baseline=0.5)


def screen(**columns: str) -> AnnData:
    """Two contexts, three labels, two batches."""
    rng = np.random.default_rng(0)
    n = 48
    adata = AnnData(X=rng.poisson(3.0, (n, 6)).astype(np.float32))
    adata.obs["perturbation"] = np.array(["control", "A", "B"])[np.arange(n) % 3]
    adata.obs["kind"] = np.array(["T", "B"])[np.arange(n) % 2]
    adata.obs["lane"] = np.array(["1", "2"])[np.arange(n) // 24]
    for name, value in columns.items():
        adata.obs[name] = value
    return adata


def test_each_cell_has_the_context_that_its_column_says() -> None:
    adata = screen()
    data = Trajectories.from_anndata(adata, context="kind")
    assert data.schema.contexts == ("B", "T")
    said = np.array(data.schema.contexts)[data.context]
    assert (said == adata.obs.loc[data.names, "kind"].to_numpy()).all()
    batch = data.batch(np.arange(4))
    assert batch.context is not None
    assert batch.context.tolist() == data.context[:4].tolist()


def test_a_screen_without_contexts_is_what_it_was() -> None:
    data = Trajectories.from_anndata(screen())
    assert data.schema.contexts == ()
    assert "contexts" not in data.schema.to_json()
    assert data.batch().context is None
    assert data.digest != Trajectories.from_anndata(screen(), context="kind").digest


def test_contexts_survive_selection_and_json() -> None:
    data = SIMULATED.data
    chosen = data.select("gene_1", context="context_2")
    assert chosen.n_cells > 0
    assert set(chosen.labels) == {"gene_1"}
    assert set(chosen.context.tolist()) == {2}
    assert type(data.schema).from_json(data.schema.to_json()) == data.schema


def test_a_held_out_context_leaves_its_controls(tmp_path: Path) -> None:
    data = SIMULATED.data
    train, test = data.hold_out(contexts="context_1")
    assert set(test.context.tolist()) == {1}
    assert "control" not in set(test.labels)
    assert set(train.select(context="context_1").labels) == {"control"}
    assert train.n_cells + test.n_cells == data.n_cells
    assert str(train.split) == "context=context_1"
    Split.save(train.split, tmp_path / "split.json")  # type: ignore[arg-type]
    assert Split.load(tmp_path / "split.json") == train.split


def test_criteria_meet_in_a_context() -> None:
    data = SIMULATED.data
    _, test = data.divide(Split((Criterion.parse("context=context_1;perturbation=gene_0"),)))
    assert set(test.labels) == {"gene_0"}
    assert set(test.context.tolist()) == {1}


def test_groups_are_apart_by_context() -> None:
    data = SIMULATED.data
    groups = Groups.of(data)
    assert len(groups.labels) == 4 * 3
    for label, c, profile in zip(groups.labels, groups.contexts.tolist(), groups.level, strict=True):
        cells = data.select(label, context=data.schema.contexts[c])
        np.testing.assert_allclose(profile, level(cells), rtol=1e-5, atol=1e-5)


def test_contexts_whose_controls_look_alike_are_near() -> None:
    data = cv.datasets.load("kang")
    near = distances(control_profiles(data))
    at = data.schema.contexts.index
    np.testing.assert_allclose(near, near.T)
    monocytes = near[at("CD14+ Monocytes"), at("FCGR3A+ Monocytes")]
    assert monocytes < near[at("CD14+ Monocytes"), at("CD4 T cells")]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n_genes", [1, 2, 5])
def test_flat_profiles_are_one_apart(n_genes: int) -> None:
    assert distances(np.ones((2, n_genes))).tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_batches_of_a_context_are_those_of_its_cells() -> None:
    adata = screen()
    adata.obs["lane"] = adata.obs["kind"].map({"T": "1", "B": "2"})
    data = Trajectories.from_anndata(adata, context="kind", batch="lane")
    assert batches_of_contexts(data).tolist() == [[False, True], [True, False]]


def test_a_context_without_controls_is_told() -> None:
    adata = screen()
    adata = adata[~((adata.obs["kind"] == "T") & (adata.obs["perturbation"] == "control"))].copy()
    with pytest.warns(CiteVAEWarning, match="no control was observed in context T"):
        Trajectories.from_anndata(adata, context="kind")


def test_a_perturbation_that_is_its_context_is_named() -> None:
    adata = screen()
    lost = (adata.obs["kind"] == "T") & (adata.obs["perturbation"] == "control")
    lost |= (adata.obs["kind"] == "B") & (adata.obs["perturbation"] == "A")
    with pytest.warns(CiteVAEWarning, match="the effects of A cannot be told apart"):
        Trajectories.from_anndata(adata[~lost].copy(), context="kind")


def test_a_batch_of_one_context_is_noted() -> None:
    adata = screen()
    adata.obs["lane"] = adata.obs["kind"].map({"T": "1", "B": "2"})
    data = Trajectories.from_anndata(adata, context="kind", batch="lane")
    assert any("counts as context" in note for note in data.summary().content["notes"])


def test_more_cells_bring_new_contexts_with_them() -> None:
    data = Trajectories.from_anndata(screen(), context="kind", batch="lane")
    more = screen(kind="NK", lane="9")
    with pytest.warns(CiteVAEWarning, match="batch '9'"):
        read = Trajectories.from_anndata(more, context="kind", batch="lane", schema=data.schema)
    assert read.schema.contexts == ("B", "T", "NK")
    assert set(read.context.tolist()) == {2}
    assert set(read.technical.tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("columns", "schema_of", "said"),
    [
        ({}, {"context": "kind"}, "name it with context="),
        ({"context": "kind"}, {}, "fitted without any"),
        ({"context": "type"}, None, "context='type' is not a column"),
        ({"context": "empty"}, None, "missing values"),
    ],
)
def test_unclear_contexts_are_refused(
    columns: dict[str, str], schema_of: dict[str, str] | None, said: str
) -> None:
    adata = screen()
    adata.obs["empty"] = [None, *["x"] * (adata.n_obs - 1)]
    schema = None if schema_of is None else Trajectories.from_anndata(screen(), **schema_of).schema
    with pytest.raises(DataError, match=said):
        Trajectories.from_anndata(adata, schema=schema, **columns)


def test_unknown_contexts_are_named() -> None:
    with pytest.raises(DataError, match="'context_9' is not in the data"):
        SIMULATED.data.hold_out(contexts="context_9")


@pytest.mark.parametrize("part", ["start", "baseline", "mechanism"])
def test_simulated_contexts_differ_in_the_part_that_is_asked_for(part: str) -> None:
    options = {f"context_{part}": 1.0}
    simulated = cv.simulate(n_cells=60, n_perturbations=2, n_contexts=3, decay=0.1, **options)
    truth = simulated.truth
    assert truth.start is not None and truth.baseline is not None and truth.a_context is not None
    spread = {
        "start": np.ptp(truth.start, axis=0).max(),
        "baseline": np.ptp(truth.baseline, axis=0).max(),
        "mechanism": np.ptp(truth.a_context, axis=0).max(),
    }
    assert spread[part] > 0.1
    assert all(value == 0 for name, value in spread.items() if name != part)
    effects = [simulated.effects(["gene_0"], 4, context=name) for name in simulated.data.schema.contexts]
    assert (np.ptp(effects, axis=0).max() > 0.01) or part == "start"


def test_a_simulation_of_one_context_is_what_it_was() -> None:
    one, other = cv.simulate(n_cells=40), cv.simulate(n_cells=40, n_contexts=1, context_start=3.0)
    assert one.data.digest == other.data.digest
    assert do().is_control


def test_contexts_are_read_from_disk_as_in_memory(tmp_path: Path) -> None:
    adata = screen()
    adata.write_h5ad(tmp_path / "screen.h5ad")
    held = Trajectories.from_disk(tmp_path / "screen.h5ad", context="kind", progress=False)
    there = Trajectories.from_anndata(adata, context="kind")
    assert held.schema == there.schema
    assert held.context.tolist() == there.context.tolist()
    train, test = held.hold_out(contexts="T")
    assert set(test.context.tolist()) == {1}
    assert train.batch(np.arange(3)).context is not None
