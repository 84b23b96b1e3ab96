"""States of observed cells: their posterior means, under the names of the cells, however rows are ordered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from exact_posterior import exact
from known_programs import drawn_from, linear_gaussian, screen
from screens import as_anndata, simulated, unfitted
from torch.utils._python_dispatch import TorchDispatchMode

import pyro_citevae as cv
from pyro_citevae.errors import DataError, ModelError
from pyro_citevae.guides import BackwardSmoother, KalmanSmoother, MeanField
from pyro_citevae.infer import latent_states
from pyro_citevae.models import CiteVAE, StaticShift

DRAWS = 200


def in_file(n_cells: int = 80, **obs: Any) -> AnnData:
    """A time course whose rows do not lie in the order of their names, with two cells of a failed guide."""
    made = as_anndata(simulated(n_cells=n_cells), **obs)
    made.obs.iloc[[3, 17], made.obs.columns.get_loc("perturbation")] = "failed"
    return made[np.random.default_rng(0).permutation(n_cells)].copy()


@pytest.fixture(scope="module")
def adata() -> AnnData:
    return in_file()


@pytest.fixture(scope="module")
def posterior(adata: AnnData) -> cv.Posterior:
    data = cv.Trajectories.from_anndata(adata, time="time", exclude=("failed",))
    model = CiteVAE(data.schema, n_programs=2, n_invariant=1, hidden=4)
    guide = BackwardSmoother(model, hidden=4)
    return cv.fit(model, guide, data, max_epochs=3, progress=False)


@pytest.fixture(scope="module")
def without_invariant(adata: AnnData) -> cv.Posterior:
    data = cv.Trajectories.from_anndata(adata, time="time", exclude=("failed",))
    model = StaticShift(data.schema, n_programs=3, hidden=4)
    return cv.fit(model, MeanField(model, hidden=4), data, max_epochs=1, progress=False)


def distance(one: pd.DataFrame, other: pd.DataFrame) -> float:
    assert one.index.sort_values().equals(other.index.sort_values())
    return float(np.sqrt(((one - other.loc[one.index]) ** 2).to_numpy().mean()))


# the numbers


def test_means_of_a_known_program_are_the_exact_ones() -> None:
    """Of sequences under a linear Gaussian program, whose Kalman smoother needs no training.

    There the means of the laws, one after the other, are the mean of the posterior; single precision is left.
    """
    design = screen("sequences", "real", n_cells=150)
    model = linear_gaussian(design)
    posterior = cv.Posterior(model, KalmanSmoother(model, hidden=4, iterations=6), pd.DataFrame(), {})
    data = drawn_from(model, design)
    truth = exact(posterior, data)
    means = posterior.latent(data, draws=DRAWS)
    assert list(means.columns) == ["program_0", "program_1"]
    error = means.to_numpy() - truth.mean[data.row_cell, data.row_step]
    assert np.abs(error / truth.sd[data.row_cell, data.row_step]).max() < 1e-3


def test_a_fit_finds_the_true_programs_better_than_chance() -> None:
    """Each true program, from all means by least squares; chance is the same with the cells permuted."""
    simulation = cv.simulate(n_cells=200, n_genes=20, n_programs=2, n_perturbations=3, n_steps=2, seed=3)
    data = simulation.data
    model = CiteVAE(data.schema, n_programs=2, n_invariant=0, hidden=8)
    posterior = cv.fit(
        model, BackwardSmoother(model, hidden=16), data, max_epochs=25, batch_size=50, progress=False
    )
    means = posterior.latent(data)
    z = simulation.truth.z[data.row_step, data.row_cell]

    def explained(truth: np.ndarray) -> float:
        design = np.column_stack([means.to_numpy(), np.ones(len(means))])
        residual = truth - design @ np.linalg.lstsq(design, truth, rcond=None)[0]
        return float(1 - residual.var(0).sum() / truth.var(0).sum())

    assert explained(z) > 0.3
    assert explained(np.random.default_rng(0).permutation(z)) < 0.05


def test_a_row_is_an_observation_at_its_own_step(posterior: cv.Posterior, adata: AnnData) -> None:
    data = posterior.read(adata)
    means = posterior.latent(data, draws=3)
    assert list(means.columns) == ["program_0", "program_1", "invariant_0"]
    assert means.index.equals(pd.Index(data.obs.index))
    assert sorted(means.index) == sorted(adata.obs_names[adata.obs["perturbation"] != "failed"])
    assert np.isfinite(means.to_numpy()).all()


def test_observations_of_a_sequence_have_an_invariant_state_in_common() -> None:
    data = simulated("sequences", n_cells=12)
    model = CiteVAE(data.schema, n_programs=2, n_invariant=2, hidden=4)
    guide = BackwardSmoother(model, hidden=4)
    posterior = cv.Posterior(model.eval(), guide.eval(), pd.DataFrame(), {})
    unpaired = data.rows(np.arange(data.n_observations) % 5 != 1)  # some times of some cells are missing
    means = posterior.latent(unpaired, draws=2)
    assert means.index.tolist() == unpaired.names[unpaired.row_cell].tolist()
    groups = means.groupby(level=0, sort=False)
    assert (groups[["invariant_0", "invariant_1"]].nunique() == 1).all(axis=None)
    assert (groups["program_0"].nunique() == groups.size()).all()


# the draws


def test_equal_seeds_give_equal_frames(posterior: cv.Posterior, adata: AnnData) -> None:
    data = posterior.read(adata)
    once, again = (posterior.latent(data, draws=2, seed=1) for _ in range(2))
    assert once.equals(again)


def test_a_cells_states_do_not_depend_on_the_others(posterior: cv.Posterior, adata: AnnData) -> None:
    whole = posterior.latent(posterior.read(adata))
    part = posterior.latent(posterior.read(adata[20:40].copy()))
    pd.testing.assert_frame_equal(part, whole.loc[part.index], rtol=1e-4, atol=1e-5)


def test_chunks_change_nothing(
    posterior: cv.Posterior, adata: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = posterior.read(adata)
    whole = posterior.latent(data, draws=DRAWS)
    chunked = posterior.latent(data, draws=DRAWS, most_cells=7)
    monkeypatch.setattr(latent_states, "MOST_VALUES", 3 * DRAWS * data.schema.n_genes)
    small = posterior.latent(data, draws=DRAWS, most_cells=7)
    for one in (chunked, small):
        assert distance(one, whole) < 1e-5


class Largest(TorchDispatchMode):
    """Notes the most elements of any tensor that an operation returned."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(one, torch.Tensor):
                self.elements = max(self.elements, one.numel())
        return made


def test_no_tensor_of_draws_by_cells_by_genes_is_made() -> None:
    data = simulated(n_cells=300, n_genes=100)
    model = CiteVAE(data.schema, n_programs=2, n_invariant=1, hidden=4)
    guide = BackwardSmoother(model, hidden=4)
    posterior = cv.Posterior(model.eval(), guide.eval(), pd.DataFrame(), {})
    with Largest() as largest:
        posterior.latent(data, draws=60)
    assert largest.elements < 10 * data.n_cells * data.schema.n_genes


def test_a_file_too_large_for_memory_is_read_from_disk(
    posterior: cv.Posterior, adata: AnnData, tmp_path: Path
) -> None:
    adata.write_h5ad(tmp_path / "screen.h5ad")
    data = cv.Trajectories.from_disk(
        tmp_path / "screen.h5ad", time="time", exclude=("failed",), schema=posterior.schema, progress=False
    )
    in_memory = posterior.latent(posterior.read(adata), draws=DRAWS)
    on_disk = posterior.latent(data, draws=DRAWS, most_cells=30)
    assert distance(on_disk, in_memory) < 1e-5


# beside the counts


def test_rows_are_matched_by_name_whatever_their_order(posterior: cv.Posterior, adata: AnnData) -> None:
    shuffled = adata[np.random.default_rng(5).permutation(adata.n_obs)].copy()
    frames = []
    for one in (adata.copy(), shuffled):
        posterior.annotate(one, draws=DRAWS, seed=3)
        means = posterior.latent(posterior.read(one), draws=DRAWS, seed=3)
        read = one.obs_names[one.obs["perturbation"] != "failed"]
        found = pd.DataFrame(
            np.hstack([one.obsm["X_citevae"], one.obsm["X_citevae_invariant"]]), one.obs_names, means.columns
        )
        pd.testing.assert_frame_equal(found.loc[read], means.loc[read], check_names=False)
        frames.append(found.loc[read])
    assert distance(*frames) < 1e-5
    moved = pd.DataFrame(frames[1].to_numpy(), frames[0].index, frames[0].columns)
    assert distance(moved, frames[0]) > 1e-2  # had they been matched by place


def test_cells_that_are_not_read_get_nan(posterior: cv.Posterior, adata: AnnData) -> None:
    annotated = adata.copy()
    posterior.annotate(annotated, draws=2)
    failed = (annotated.obs["perturbation"] == "failed").to_numpy()
    assert failed.sum() == 2
    for name in ("X_citevae", "X_citevae_invariant"):
        assert np.array_equal(np.isnan(annotated.obsm[name]).all(1), failed)
        assert np.isfinite(annotated.obsm[name][~failed]).all()


def test_the_annotated_file_is_written_and_read(
    posterior: cv.Posterior, adata: AnnData, tmp_path: Path
) -> None:
    annotated = adata.copy()
    posterior.annotate(annotated, draws=2, seed=7)
    annotated.write_h5ad(tmp_path / "annotated.h5ad")
    again = anndata.read_h5ad(tmp_path / "annotated.h5ad")
    np.testing.assert_array_equal(again.obsm["X_citevae"], annotated.obsm["X_citevae"])
    noted = again.uns["citevae"]
    assert noted["model"].endswith(":CiteVAE") and noted["guide"].endswith(":BackwardSmoother")
    assert list(noted["programs"]) == ["program_0", "program_1"]
    assert (noted["draws"], noted["seed"]) == (2, 7)
    assert noted["versions"]["pyro-citevae"] == cv.__version__


@pytest.mark.parametrize("genes", ["of the ontology", "unknown"])
def test_the_file_has_what_programs_are_called_and_why(genes: str, tmp_path: Path) -> None:
    annotated = in_file()
    if genes == "of the ontology":
        annotated.var_names = ["NANOG", "POU5F1", "SOX2", "MYC", "TP53", "STAT1", "JAK2"]
    data = cv.Trajectories.from_anndata(annotated, time="time", exclude=("failed",))
    posterior = unfitted(StaticShift(data.schema, n_programs=2, hidden=4))
    posterior.record["columns"] = {"time": "time", "exclude": ["failed"]}
    posterior.annotate(annotated, draws=2)
    annotated.write_h5ad(tmp_path / "annotated.h5ad")
    noted, named = anndata.read_h5ad(tmp_path / "annotated.h5ad").uns["citevae"], posterior.program_genes()
    assert dict(zip(noted["programs"], noted["program_names"], strict=True)) == named.names
    for name, table in {"program_genes": named.table, "program_terms": named.known_terms}.items():
        found = noted[name].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, table, check_dtype=False, check_categorical=False)
    assert len(noted["program_terms"]) > 0 or genes == "unknown"


def test_a_frame_says_what_its_programs_are_called(posterior: cv.Posterior, adata: AnnData) -> None:
    means = posterior.latent(posterior.read(adata), draws=2)
    assert means.attrs["program_names"] == posterior.program_genes().names
    assert set(means.attrs["program_names"]) == {"program_0", "program_1"}


def test_nothing_stays_of_a_model_before(
    posterior: cv.Posterior, without_invariant: cv.Posterior, adata: AnnData
) -> None:
    annotated = adata.copy()
    posterior.annotate(annotated, draws=2)
    without_invariant.annotate(annotated, draws=2)
    assert annotated.obsm["X_citevae"].shape == (adata.n_obs, 3)
    assert "X_citevae_invariant" not in annotated.obsm
    assert annotated.uns["citevae"]["model"].endswith(":StaticShift")


def test_a_run_that_was_saved_annotates_alike(
    posterior: cv.Posterior, adata: AnnData, tmp_path: Path
) -> None:
    once, again = adata.copy(), adata.copy()
    posterior.annotate(once, draws=2)
    posterior.save(tmp_path / "run")
    cv.load(tmp_path / "run").annotate(again, draws=2)
    np.testing.assert_array_equal(once.obsm["X_citevae"], again.obsm["X_citevae"])


# what is refused


@pytest.mark.parametrize(
    ("asked", "phrase"),
    [
        ({"draws": 0}, "latent(draws=0, most_cells=2000) needs one at least of each"),
        ({"most_cells": -1}, "latent(draws=20, most_cells=-1) needs one at least of each"),
        ({"draws": 2.5}, "latent(draws=...) is 2.5, which is no whole number"),
    ],
)
def test_numbers_are_whole_and_positive(
    posterior: cv.Posterior, adata: AnnData, asked: dict, phrase: str
) -> None:
    with pytest.raises(DataError, match=re.escape(phrase)):
        posterior.latent(posterior.read(adata), **asked)


def test_data_of_another_schema_are_refused(posterior: cv.Posterior) -> None:
    with pytest.raises(DataError, match=r"latent\(data\) was read with another schema"):
        posterior.latent(simulated(n_cells=30))


@pytest.mark.parametrize("call", ["latent(data)", "annotate(adata)"])
def test_programs_of_several_fits_are_not_mixed(posterior: cv.Posterior, adata: AnnData, call: str) -> None:
    ensemble = cv.Ensemble([posterior, posterior])
    ask = {"latent(data)": lambda: ensemble.latent(posterior.read(adata), draws=2),
           "annotate(adata)": lambda: ensemble.annotate(adata)}  # fmt: skip
    with pytest.raises(
        ModelError, match=re.escape(f"no common order; ask one of them, with ensemble.posteriors[0].{call}.")
    ):
        ask[call]()
