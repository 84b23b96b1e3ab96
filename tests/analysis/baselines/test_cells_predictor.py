"""What another tool predicts, from its cells: the effect that would be measured in them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import pyro_citevae as cv
from pyro_citevae.analysis import CellsPredictor, measure
from pyro_citevae.benchmark import PROTOCOLS
from pyro_citevae.errors import DataError

SIZES = {"n_cells": 300, "n_genes": 10, "n_perturbations": 3}


@cache
def snapshot() -> cv.Trajectories:
    return cv.simulate(**SIZES, design="snapshot", combinations=("gene_0+gene_1",), seed=1).data


@cache
def course() -> cv.Trajectories:
    return cv.simulate(**SIZES, n_steps=3, seed=1).data


@cache
def in_contexts() -> cv.Trajectories:
    return cv.simulate(**SIZES, design="snapshot", n_contexts=3, context_baseline=1.0, seed=1).data


def written(data: cv.Trajectories, **columns: object) -> AnnData:
    """Cells as a tool writes them."""
    obs = {"perturbation": data.row_labels.astype(str), "time": data.row_times}
    if data.schema.contexts:
        obs["context"] = np.array(data.schema.contexts)[data.context[data.row_cell]]
    frame = pd.DataFrame(obs | columns, index=[f"cell_{i}" for i in range(data.n_observations)])
    return AnnData(data.stored.tocsr(), obs=frame, var=pd.DataFrame(index=list(data.schema.genes)))


def log1p(cells: AnnData, total: float) -> AnnData:
    """The same cells scaled to a total, natural log."""
    made = cells.copy()
    made.X = np.log1p(total * cells.X.toarray() / cells.X.sum(1).A)
    return made


def perturbed(data: cv.Trajectories) -> cv.Trajectories:
    return data.rows(data.row_labels != data.schema.control)


def test_the_effect_of_measured_cells_is_the_measured_effect() -> None:
    data = course()
    predictor = CellsPredictor(written(perturbed(data)), data)
    effect = predictor.effect(["gene_0", "gene_2"], time=[1.0, 3.0])
    for label in ("gene_0", "gene_2"):
        for time in (1.0, 3.0):
            found = effect.sel(perturbation=label, time=time).to_numpy().ravel()
            np.testing.assert_allclose(found, measure(data, label, time).delta, atol=1e-12)


def test_in_a_context_it_is_the_effect_against_its_own_controls() -> None:
    data = in_contexts()
    effect = CellsPredictor(written(perturbed(data)), data).effect("gene_1", context=["context_2"])
    own = data.select(context="context_2")
    wanted = measure(own, "gene_1", data.schema.times[-1]).delta
    assert effect.context.values.tolist() == ["context_2"]
    np.testing.assert_allclose(effect.to_numpy().ravel(), wanted, atol=1e-12)


@pytest.mark.parametrize("label", ["gene_0+gene_1", "gene_1+gene_0"])
def test_members_of_a_pair_come_in_any_order(label: str) -> None:
    data = snapshot()
    pair = data.select("gene_0+gene_1")
    cells = written(pair, perturbation=label)
    effect = CellsPredictor(cells, data).effect("gene_1+gene_0")
    wanted = measure(data, "gene_0+gene_1", data.schema.times[-1]).delta
    np.testing.assert_allclose(effect.to_numpy().ravel(), wanted, atol=1e-12)


@pytest.mark.parametrize("values", ["counts", "log1p"])
def test_copied_controls_have_no_effect(values: str) -> None:
    """On either scale: cells without a depth are held against controls without one."""
    data = snapshot()
    cells = written(data.controls(), perturbation="gene_1")
    cells = log1p(cells, 1e4) if values == "log1p" else cells
    effect = CellsPredictor(cells, data, values=values).effect("gene_1")
    np.testing.assert_allclose(effect.to_numpy(), 0.0, atol=1e-5)  # float32 logs


def test_the_total_that_logs_were_scaled_to_does_not_matter() -> None:
    data = snapshot()
    cells = written(data.select("gene_0"))
    one, other = (
        CellsPredictor(log1p(cells, total), data, values="log1p").effect("gene_0").to_numpy()
        for total in (100.0, 1e4)
    )
    np.testing.assert_allclose(one, other, atol=1e-4)  # float32 logs


def test_each_draw_of_the_cells_is_a_draw_of_the_effect() -> None:
    data = snapshot()
    halves = written(data.select("gene_0"))
    halves.obs["draw"] = np.arange(halves.n_obs) % 2
    predictor = CellsPredictor(halves, data)
    effect = predictor.effect("gene_0")
    assert predictor.n_draws == effect.sizes["draw"] == 2
    single = CellsPredictor(halves[halves.obs["draw"] == 1].copy(), data).effect("gene_0")
    np.testing.assert_allclose(effect.to_numpy()[0, 1], single.to_numpy()[0, 0], atol=1e-12)


def test_controls_that_were_predicted_take_the_place_of_trainings() -> None:
    data = course()
    train = data.rows(data.row_times < 3)
    cells = written(data.rows(data.row_times == 3))
    effect = CellsPredictor(cells, train).effect("gene_0", time=3.0)
    np.testing.assert_allclose(effect.to_numpy().ravel(), measure(data, "gene_0", 3.0).delta, atol=1e-12)


def test_without_controls_of_a_time_those_of_the_last_time_before_count() -> None:
    """So a tool that knows no time, and hands on cells of the last training time, has that time's effect."""
    data = course()
    train = data.rows(data.row_times < 3)
    cells = written(train.select("gene_0", 2.0), time=3.0)
    effect = CellsPredictor(cells, train).effect("gene_0", time=3.0)
    np.testing.assert_allclose(effect.to_numpy().ravel(), measure(train, "gene_0", 2.0).delta, atol=1e-12)


def test_predicted_cells_are_the_tools_own_beside_the_controls() -> None:
    data = snapshot()
    mine = data.select("gene_2")
    made = CellsPredictor(written(mine), data).predict([cv.do(), cv.do("gene_2")], cells=data.controls())
    assert set(made.obs["perturbation"]) == {"control", "gene_2"}
    found = made[(made.obs["perturbation"] == "gene_2").to_numpy()].X
    assert found.shape[0] <= data.controls().n_cells
    rows = {tuple(row) for row in mine.stored.toarray()}
    assert all(tuple(row) in rows for row in found.toarray())  # integers stay as they are


def test_cells_without_a_depth_become_counts_of_the_same_expectation() -> None:
    """Their depth is that of the controls, and each value is rounded up or down by chance."""
    data = snapshot()
    share = np.linspace(1, 2, data.schema.n_genes)
    share /= share.sum()
    obs = pd.DataFrame({"perturbation": ["gene_0"] * 400}, index=[str(i) for i in range(400)])
    x = np.log1p(np.tile(1e4 * share, (400, 1)))
    cells = AnnData(x, obs=obs, var=pd.DataFrame(index=list(data.schema.genes)))
    controls = data.controls()
    made = CellsPredictor(cells, data, values="log1p").predict(cv.do("gene_0"), cells=controls).X.toarray()
    assert np.array_equal(made, made.round())
    wanted = share * controls.stored.sum(1)[: len(made)].mean()
    np.testing.assert_allclose(
        made.mean(0), wanted, atol=4 * 0.5 / np.sqrt(len(made))
    )  # a rounding's deviation


def test_a_fold_scores_it_as_any_predictor() -> None:
    """Held-out cells themselves err by nothing, and copied controls as the prediction of no change does."""
    data = in_contexts()
    fold = PROTOCOLS["unseen-context"].folds(data, 1, ())[0]
    controls = fold.train.select(data.schema.control, context=fold.context)
    copies = [written(controls, perturbation=label) for label in fold.labels]
    nothing = AnnData(
        sparse.vstack([one.X for one in copies]).tocsr(),
        obs=pd.concat([one.obs for one in copies]).reset_index(drop=True),
        var=copies[0].var,
    )
    nothing.obs_names = nothing.obs_names.astype(str)
    for cells, wanted in ((written(perturbed(fold.truth)), 0.0), (nothing, 1.0)):
        scores = fold.scores("tool", CellsPredictor(cells, fold.train, name="tool"), draws=5, cells=50)
        errors = scores[scores.score == "relative_l2"]
        assert set(errors.perturbation) == set(fold.labels)
        np.testing.assert_allclose(errors["value"], wanted, atol=1e-6)
        assert np.isfinite(scores[scores.score == "energy_distance"]["value"]).all()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda cells: AnnData(cells.X, var=cells.var), "lacks the column 'perturbation'"),
        (lambda cells: cells[:, 1:].copy(), "not predicted"),
        (lambda cells: AnnData(np.full(cells.shape, np.nan), obs=cells.obs, var=cells.var), "no numbers"),
    ],
    ids=["no label", "a gene less", "no number"],
)
def test_cells_that_cannot_be_read_are_refused(changed: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        CellsPredictor(changed(written(snapshot())), snapshot())


def test_what_was_not_predicted_is_named() -> None:
    predictor = CellsPredictor(written(snapshot().select("gene_0")), snapshot(), name="tool")
    with pytest.raises(DataError, match="'tool' predicts no cell of 'gene_1'"):
        predictor.effect("gene_1")
    with pytest.raises(DataError, match="'tool' predicts no cell of 'gene_1'"):
        predictor.predict("gene_1", cells=snapshot().controls())


def test_values_of_no_known_kind_are_refused() -> None:
    with pytest.raises(DataError, match="neither 'counts' nor 'log1p'"):
        CellsPredictor(written(snapshot()), snapshot(), values="scaled")
